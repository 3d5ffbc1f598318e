"""Readers of public test sets: one module per set, each turning the public files into a `genrank.data.dataset.Dataset`.

No set ships with genrank. Each has its own licence, which `dataset.toml` repeats under ``source``.
"""
