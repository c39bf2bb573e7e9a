"""Images and sentences to embeddings, and the files that keep them."""
