"""What evaluation shares: configs, prompts, datasets, the encoder, tasks, metrics, results and the suite."""
