"""What debiasing does to the embeddings of sentences about professions, and to single latents."""
