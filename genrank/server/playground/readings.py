"""The ways in which a loaded model can rank: each decoding with each prompt template that suits it and its adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from genrank.cascade import Cascade
from genrank.errors import GenrankError
from genrank.prompting.template import load_template, template_names
from genrank.reranker import Reranker
from genrank.server.config import ModelConfig
from genrank.server.gateway import Ranker
from genrank.types import Decoding

SERVED = "served"
"""Name of the way in which the gateway ranks for its clients."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A decoding with a prompt.

    Attributes:
        decoding: The decoding; of a cascade, that of its first stage.
        prompt: Name and version of the prompt template.
        then: Decoding of a cascade's second stage; empty without one.
        reasons: Whether the prompt can ask for reasons.
        shows: The reranker whose prompts are shown; of a cascade, its first stage.
        ranker: Ranks in place of the gateway's own; None for that one.
    """

    decoding: Decoding
    prompt: str
    then: str
    reasons: bool
    shows: Reranker
    ranker: Reranker | None


def find_readings(ranker: Ranker, config: ModelConfig) -> Mapping[str, Reading]:
    """Every way in which the model that `ranker` has loaded can rank, by name.

    Nothing more is loaded. A prompt that the adapter was not trained with, or that the tokenizer or the engine cannot
    use, is left out, and so are templates for the second stage of a cascade. The other settings are those of `ranker`,
    except for the windows, calibration and blend, which are the decoding's own.

    Args:
        ranker: The gateway's own.
        config: Its settings.
    """
    cascade = isinstance(ranker, Cascade)
    first = ranker.first if isinstance(ranker, Cascade) else ranker
    last = ranker.second if isinstance(ranker, Cascade) else ranker
    name = f"{first.template.name}@{first.template.version}"
    found = {
        SERVED: Reading(first.decoding, name, last.decoding if cascade else "", bool(last.template.reason), first, None)
    }
    templates = [load_template(name) for name in template_names()]
    for decoding in get_args(Decoding):
        for template in templates:
            same = (decoding, template.digest) == (first.decoding, first.template.digest)
            if decoding not in template.decodings or template.grade or (same and not cascade):
                continue
            try:
                other = Reranker(
                    engine=first.engine,
                    prompt=template,
                    decoding=decoding,
                    seed=config.seed,
                    max_reason_tokens=config.max_reason_tokens,
                    fallback=first.fallback,
                )
            except GenrankError:
                continue
            name = f"{template.name}@{template.version}"
            found[f"{decoding}/{template.name}"] = Reading(decoding, name, "", bool(template.reason), other, other)
    return found
