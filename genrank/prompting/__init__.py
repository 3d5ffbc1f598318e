"""Turns a query, a history and a window of candidates into the tokens that a model reads."""
