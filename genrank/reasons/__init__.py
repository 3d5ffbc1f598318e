"""Reasons for a listing's rank: written by the model, checked against the facts."""
