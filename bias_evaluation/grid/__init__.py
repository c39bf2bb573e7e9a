"""What is to be computed: configs, the grid of results, and the names of methods and results."""
