"""How sure a model is of its cosines (BayesVLM): estimated from pairs, drawn in an evaluation."""
