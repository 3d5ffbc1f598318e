"""Who runs the model: the protocol (`base`) and one module for each engine."""
