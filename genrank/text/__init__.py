"""Cleans every text, splits it into words, and makes a shop's data safe for a model to read."""
