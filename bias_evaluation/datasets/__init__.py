"""A dataset on disk: its images, metadata, folds and stored embeddings."""
