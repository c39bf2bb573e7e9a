"""From embeddings to results: methods, scores, metrics, result files and the table of them all."""
