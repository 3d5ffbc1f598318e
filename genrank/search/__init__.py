"""First stages, which find the candidates: BM25 and dense vectors; and `feedback`, which learns from clicks."""

from genrank.errors import MissingExtraError

try:
    import numpy as _  # noqa: F401 - every module here computes with it
except ImportError:
    raise MissingExtraError("numpy", "search") from None
