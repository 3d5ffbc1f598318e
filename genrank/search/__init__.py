"""First stages, which find the candidates: a catalogue's index, BM25, dense vectors."""

from genrank.errors import MissingExtraError

try:
    import numpy as _  # noqa: F401 - every module here computes with it
except ImportError:
    raise MissingExtraError("numpy", "search") from None
