"""Examples: run them from a clone, as ``python -m examples.demo``."""
