"""Engines run the model: their protocol (`base`), and one module for each engine."""
