"""From compact YAML to sentences, and from sentences to groups of embeddings."""
