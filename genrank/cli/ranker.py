"""The options that say what ranks, shared by ``genrank rerank`` and ``genrank batch``."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Literal, get_args

from genrank.models.registry import DEFAULT_MODEL
from genrank.types import Combine, Decoding, Dtype, Strategy

if TYPE_CHECKING:
    from genrank.batch.settings import Settings


def add_ranker_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `genrank.Reranker`, of its calls and of a second stage."""
    parser.add_argument(
        "--model", help=f"known name, local folder or hub name ({DEFAULT_MODEL}); a server's only model"
    )
    parser.add_argument("--adapter", help="folder or hub name of a LoRA adapter")
    parser.add_argument(
        "--dtype", choices=get_args(Dtype), default="auto", help="number format of the weights (%(default)s)"
    )
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run code that lies in the model's folder; read it first"
    )
    parser.add_argument(
        "--engine",
        default="transformers",
        metavar="E",
        help="transformers, vllm, or a server's address, such as http://127.0.0.1:8000/v1, whose key, if it wants one, "
        "is in the environment variable GENRANK_API_KEY (%(default)s)",
    )
    parser.add_argument("--prompt", metavar="P", help="name of a prompt template, or a .toml file")
    parser.add_argument(
        "--decoding",
        choices=get_args(Decoding),
        help="how it ranks (what suits the adapter and the prompt, first of all pointwise)",
    )
    parser.add_argument(
        "--strategy", choices=get_args(Strategy), help="how a long list is split (pointwise: each; else sliding)"
    )
    parser.add_argument("--window", type=int, metavar="N", help="candidates in a window; not for pointwise (20)")
    parser.add_argument("--stride", type=int, metavar="N", help="candidates a window moves by (half a window)")
    parser.add_argument(
        "--passes",
        type=int,
        metavar="N",
        help="passes over differently ordered candidates (pointwise, listwise: 1; else 2)",
    )
    parser.add_argument("--calibration", metavar="FILE", help="turns scores into probabilities (the adapter's own)")
    parser.add_argument(
        "--blend",
        metavar="WEIGHT",
        type=_blend,
        help="weight of the model beside the first stage's scores, 0 to 1, or off (the adapter's own)",
    )
    parser.add_argument("--reasons", type=int, default=0, metavar="K", help="reasons for the first K items (none)")
    parser.add_argument("--top-k", type=int, metavar="K", help="return only the first K items")
    parser.add_argument("--deadline", type=float, metavar="SECONDS", help="for each batch; late candidates fall back")
    parser.add_argument(
        "--fallback",
        metavar="FOLDER",
        help="trained BERT + GBDT that orders what the model did not (the order of the candidates)",
    )
    parser.add_argument(
        "--then", choices=get_args(Decoding), help="rank the first items again with this decoding (one stage)"
    )
    parser.add_argument("--then-top", type=int, default=10, metavar="N", help="how many of them (%(default)s)")
    parser.add_argument(
        "--then-scores", choices=get_args(Combine), default="replace", help="what becomes of their scores (%(default)s)"
    )
    parser.add_argument("--max-prompt-tokens", type=int, metavar="N", help="token budget of one prompt")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the shuffles (0)")
    parser.add_argument("--snapshot", metavar="FILE", help="listings that genrank warm read beforehand (none)")


def settings_of(arguments: argparse.Namespace) -> Settings:
    """What the options say, apart from those of each call."""
    from genrank.adapters import pinned
    from genrank.batch.settings import Settings

    names = [one.name for one in dataclasses.fields(Settings)]
    settings = Settings(**{name: getattr(arguments, name) for name in names})
    return dataclasses.replace(settings, adapter=pinned(settings.adapter)) if settings.adapter else settings


def _blend(text: str) -> float | Literal[False]:
    """The value of ``--blend``; `Reranker` checks the number."""
    if text == "off":
        return False
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number within 0..1, or off, got {text!r}") from None
