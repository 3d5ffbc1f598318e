"""Trained rankers to use beside the language model: as first stages, as fallbacks, or as baselines."""

from genrank.errors import MissingExtraError

try:
    import numpy as _  # noqa: F401 - every module here computes with it
except ImportError:
    raise MissingExtraError("numpy", "rankers") from None
