"""Around the model: BM25 and dense vectors find candidates; diversity and business rules follow the ranking."""

from genrank.errors import MissingExtraError

try:
    import numpy as _  # noqa: F401 - every module here computes with it
except ImportError:
    raise MissingExtraError("numpy", "search") from None
