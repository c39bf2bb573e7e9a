"""How much of a bias attribute can be read from a probe that was trained for something else."""
