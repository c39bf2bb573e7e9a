"""From debiased embeddings to metrics: scores, the exact top K, retrieval and classification."""
