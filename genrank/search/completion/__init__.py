"""Suggestions while a shopper types, from others' queries and the catalogue, by frequency and by the model."""

from genrank.search.completion.completion import Completion
from genrank.search.completion.suggestion import Match, Source, Suggestion

__all__ = ["Completion", "Match", "Source", "Suggestion"]
