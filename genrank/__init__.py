"""genrank re-orders a shop's search results with a generative language model.

The names below are the public ones. Importing this package loads neither torch nor transformers: they come with the
first `Reranker`.
"""

from genrank.data.dataset import Dataset, sample_shop
from genrank.data.jsonl import read_requests
from genrank.engines.base import Engine
from genrank.errors import (
    BudgetError,
    ChecksumError,
    ConfigError,
    DataFormatError,
    DownloadError,
    EngineError,
    GenrankError,
    InputError,
    LicenceError,
    MissingExtraError,
    ModelError,
    ModelNotFoundError,
    OutputError,
)
from genrank.inputs import parse_request
from genrank.permutation import Permutation
from genrank.prompting.template import Template, load_template
from genrank.reranker import Reranker
from genrank.types import (
    Candidate,
    Interaction,
    Listing,
    Price,
    Provenance,
    Query,
    RankedItem,
    Ranking,
    Request,
    Tokens,
)

__all__ = [
    "BudgetError",
    "Candidate",
    "ChecksumError",
    "ConfigError",
    "DataFormatError",
    "Dataset",
    "DownloadError",
    "Engine",
    "EngineError",
    "GenrankError",
    "InputError",
    "Interaction",
    "LicenceError",
    "Listing",
    "MissingExtraError",
    "ModelError",
    "ModelNotFoundError",
    "OutputError",
    "Permutation",
    "Price",
    "Provenance",
    "Query",
    "RankedItem",
    "Ranking",
    "Request",
    "Reranker",
    "Template",
    "Tokens",
    "load_template",
    "parse_request",
    "read_requests",
    "sample_shop",
]
