"""genrank re-orders a shop's search results with a generative language model.

Start with `Reranker`::

    from genrank import Reranker

    with Reranker("smollm2-135m") as reranker:
        for item in reranker.rerank("red summer dress", ["Blue wool coat", "Red cotton dress"]):
            print(item.rank, item.listing.title, item.score)

Where to find what:

- `genrank.types`: what goes in (`Query`, `Listing`, `Interaction`, `Candidate`, `Request`) and what comes out
  (`Ranking`, `RankedItem`, `Provenance`). `genrank.inputs` turns JSON into these, `genrank.errors` draws the tree of
  errors.
- `genrank.reranker`: `Reranker`. Beneath it `genrank.scheduling` (the loop, sync and async), `genrank.windows` (how a
  long list is split), `genrank.fallback` (whose order stands where the model gave none), `genrank.permutation`,
  `genrank.calibration` (scores as probabilities), and `genrank.adapters` (what an adapter was trained for).
- `genrank.prompting`: from a query, a history and listings to the model's tokens, by a `Template`; `genrank.text`: text
  cleaned, and made harmless where it speaks to the model.
- `genrank.decoding`: from the model's answer to scores, one module for each `Decoding`.
- `genrank.engines`: who runs the model: transformers or vLLM, and the protocol (`Engine`, `AsyncEngine`) for others.
  `genrank.remote`: models behind HTTP. `genrank.models`: fetching models and checking their files.
- `genrank.reasons`: the sentence on why an item is where it is, checked against the facts.
- `genrank.data`: datasets, TREC files, request lines, and the sample shop.
- `genrank.search` and `genrank.rankers`: first stages (BM25, dense vectors), BERT + GBDT and the cross-encoder.
- `genrank.testing`: engines without a model, for your tests. `genrank.experiment`: what the programs that train and
  measure share. `genrank.cli`: the command ``genrank``.

The names below are the public ones. Importing this package loads neither torch nor transformers: they come with the
first `Reranker`.
"""

from genrank.data.dataset import Dataset, sample_shop
from genrank.data.jsonl import read_requests
from genrank.engines.base import AsyncEngine, Engine
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
    Cause,
    Claims,
    Decoding,
    Event,
    Interaction,
    Listing,
    Outcome,
    Price,
    Provenance,
    Query,
    RankedItem,
    Ranking,
    Request,
    Strategy,
    Tokens,
)

__version__ = "0.2.0"  # pyproject.toml reads it here

__all__ = [
    "AsyncEngine",
    "BudgetError",
    "Candidate",
    "Cause",
    "ChecksumError",
    "Claims",
    "ConfigError",
    "DataFormatError",
    "Dataset",
    "Decoding",
    "DownloadError",
    "Engine",
    "EngineError",
    "Event",
    "GenrankError",
    "InputError",
    "Interaction",
    "LicenceError",
    "Listing",
    "MissingExtraError",
    "ModelError",
    "ModelNotFoundError",
    "Outcome",
    "OutputError",
    "Permutation",
    "Price",
    "Provenance",
    "Query",
    "RankedItem",
    "Ranking",
    "Request",
    "Reranker",
    "Strategy",
    "Template",
    "Tokens",
    "__version__",
    "load_template",
    "parse_request",
    "read_requests",
    "sample_shop",
]
