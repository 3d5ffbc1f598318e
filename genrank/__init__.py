"""genrank re-orders a shop's search results with a generative language model.

Start with `Reranker`::

    from genrank import Reranker

    with Reranker() as reranker:
        for item in reranker.rerank("red summer dress", ["Blue wool coat", "Red cotton dress"]):
            print(item.rank, item.listing.title, item.score)

Where to look, in the order in which a call passes through:

- What goes in and comes out: `genrank.types` (`Query`, `Listing`, `Interaction`, `Candidate`, `Intent`, `Request`;
  `Ranking`, `RankedItem`, `Provenance`). `genrank.inputs` builds these from JSON. `genrank.errors` lists every error,
  as a tree.
- The call itself: `genrank.reranker`. It uses `genrank.windows` (how a long list is split), `genrank.scheduling` (the
  loop, sync and async), `genrank.fallback` (the order when the model fails), `genrank.calibration` (scores as
  probabilities) and `genrank.blending` (the first stage's scores beside the model's).
  `genrank.cascade` ranks in two stages.
- Pictures of listings, for models that look at pictures: `genrank.pictures`.
- Listings read before anyone searches for them: `genrank.warming`.
- The prompt: `genrank.prompting` turns a query, a history and listings into tokens, following a `Template`.
  `genrank.text` cleans the text and removes instructions aimed at the model.
- The model: `genrank.engines` runs it, with transformers or vLLM; `Engine` and `AsyncEngine` are the protocols for an
  engine of your own. `genrank.remote` talks to models behind HTTP: vLLM's own server, and plain chat endpoints.
  `genrank.models` fetches models and checks their files. `genrank.adapters` reads what an adapter was trained with.
- The answer: `genrank.decoding` turns it into scores, with one module for each `Decoding`; `genrank.permutation` holds
  a checked order. `genrank.reasons` writes a sentence for each top item and checks it against the facts.
- Data: `genrank.data` reads datasets, TREC files and request lines, and holds the sample shop. `genrank.files` writes
  files safely.
- Before, beside and after the model: `genrank.search` (BM25, dense vectors; variety and business rules) and
  `genrank.rankers` (BERT + GBDT, the cross-encoder).
- Words for the shopper: `genrank.words` writes summaries and titles, and reads what reviews say, by aspect.
- Over HTTP: `genrank.server`, the gateway behind ``genrank serve``. Over files of any size: `genrank.batch`.
- Inside other frameworks: `genrank.integrations`.
- Tools: `genrank.testing` (engines without a model, for your tests), `genrank.cli` (the ``genrank`` command),
  `genrank.doctor` (what works on this machine), `genrank.progress` (progress bars), `genrank.experiment` (shared by
  the programs that train and measure).

In a clone, docs/index.md says which page and which module to read for each task.

The names below are the public ones. Importing this package loads neither torch nor transformers; the first `Reranker`
does.
"""

from genrank.cascade import Cascade
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
from genrank.pictures import Pictures
from genrank.prompting.template import Template, load_template
from genrank.reranker import Reranker
from genrank.types import (
    Aspect,
    Candidate,
    Cause,
    Claims,
    Decoding,
    Diversified,
    Event,
    Guess,
    Intent,
    Interaction,
    Listing,
    Outcome,
    Pictured,
    Price,
    Provenance,
    Query,
    RankedItem,
    Ranking,
    Request,
    StandIn,
    Strategy,
    Tokens,
)

__version__ = "0.2.0"  # pyproject.toml reads it from here

__all__ = [
    "Aspect",
    "AsyncEngine",
    "BudgetError",
    "Candidate",
    "Cascade",
    "Cause",
    "ChecksumError",
    "Claims",
    "ConfigError",
    "DataFormatError",
    "Dataset",
    "Decoding",
    "Diversified",
    "DownloadError",
    "Engine",
    "EngineError",
    "Event",
    "GenrankError",
    "Guess",
    "InputError",
    "Intent",
    "Interaction",
    "LicenceError",
    "Listing",
    "MissingExtraError",
    "ModelError",
    "ModelNotFoundError",
    "Outcome",
    "OutputError",
    "Permutation",
    "Pictured",
    "Pictures",
    "Price",
    "Provenance",
    "Query",
    "RankedItem",
    "Ranking",
    "Request",
    "Reranker",
    "StandIn",
    "Strategy",
    "Template",
    "Tokens",
    "__version__",
    "load_template",
    "parse_request",
    "read_requests",
    "sample_shop",
]
