"""Around the model: find candidates, understand queries, vary and rule results, and learn from clicks."""

from genrank.errors import MissingExtraError

try:
    import numpy as _  # noqa: F401 - every module here computes with it
except ImportError:
    raise MissingExtraError("numpy", "search") from None
