"""Fetches known models, checks their files, and finds a model's folder."""
