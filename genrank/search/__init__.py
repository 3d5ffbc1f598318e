"""Around the model: what finds candidates, what a query means, and what follows the ranking."""

from genrank.errors import MissingExtraError

try:
    import numpy as _  # noqa: F401 - every module here computes with it
except ImportError:
    raise MissingExtraError("numpy", "search") from None
