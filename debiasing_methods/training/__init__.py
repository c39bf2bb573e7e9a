"""How trained methods are trained: losses, samplers and loops over arrays. No files here."""
