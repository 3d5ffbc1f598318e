"""Why a listing stands where it stands: one short sentence, written by the model.

A first version: the sentence is tidied and the fields that it names are cited. Whether each of its claims stands in
those fields is not checked yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from genrank.engines.base import Engine, TextRequest, TextResult
from genrank.prompting import Renderer
from genrank.text import clean, number_text
from genrank.types import Interaction, Listing, Query

_LIST_MARK = re.compile(r"^(?:\d+[.)]|[-*•])(?:\s+|$)")
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)|[\u3002\uff01\uff1f]")


def write_reasons(
    engine: Engine, renderer: Renderer, pairs: Sequence[tuple[Query, Listing]], *, max_tokens: int, max_prompt: int
) -> list[TextResult]:
    """Let the model write one reason for each query and listing, as one batch.

    Args:
        engine: Runs the model.
        renderer: Renders the prompts.
        pairs: ``[n]``.
        max_tokens: The most tokens of one reason.
        max_prompt: The most tokens of one prompt.

    Returns:
        ``[n]`` what the model wrote, untidied.

    Raises:
        EngineError: When the engine fails.
        BudgetError: When `max_prompt` cannot hold a prompt.
        ConfigError: When the template asks for no reasons.
    """
    requests = [
        TextRequest(renderer.render_reason(q, listing, max_tokens=max_prompt), max_tokens) for q, listing in pairs
    ]
    return engine.write(requests)


def tidy(text: str) -> str:
    """The first sentence of a model's answer as one clean line; empty when there is none.

    A sentence that the token limit cut off ends with an ellipsis.
    """
    lines = [line for line in text.splitlines() if clean(line)]
    line = _LIST_MARK.sub("", clean(lines[0])) if lines else ""
    end = _SENTENCE_END.search(line)
    if end:
        return line[: end.end()]
    return f"{line} …" if line else ""


def evidence(reason: str, listing: Listing, history: Sequence[Interaction]) -> tuple[str, ...]:
    """The fields whose value the reason names, such as ``attributes.colour`` or ``history[2].brand``."""
    said = clean(reason).casefold()
    fields = list(_fields(listing))
    for i, interaction in enumerate(history):
        fields += [(f"history[{i}].{name}", value) for name, value in _fields(interaction.listing)]
    return tuple(name for name, value in fields if _named(clean(value).casefold(), said))


def _fields(listing: Listing) -> Iterator[tuple[str, str]]:
    yield "title", listing.title
    yield "brand", listing.brand
    for i, level in enumerate(listing.category):
        yield f"category[{i}]", level
    if listing.price:
        yield "price.amount", number_text(listing.price.amount)
    for key, value in listing.attributes.items():
        yield f"attributes.{key}", value


def _named(value: str, said: str) -> bool:
    """Whether `said` holds the value, as whole words where it is written in words."""
    if not value:
        return False
    edge = r"(?<![^\W_])", r"(?![^\W_])"
    if value.isascii():  # ASCII edges: Chinese puts no space around a Latin name or a number
        number = value.replace(".", "").isdigit()
        edge = (r"(?<![0-9.,])", r"(?![.,]?[0-9])") if number else edge
        return re.search(edge[0] + re.escape(value) + edge[1], said, re.ASCII) is not None
    return value in said
