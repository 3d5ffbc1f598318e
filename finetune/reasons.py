"""Reasons to learn from: a teacher's, or facts that a listing shares with the query or the past, in varied words.

A model learns the form from them, and honesty: each reason has passed the check of `genrank.reasons.grounding` that
serving applies, and says nothing that is not in the listing or the history.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from finetune.data import ReasonWriter
from finetune.windows import TrainingWindow
from genrank.data.jsonl import read_jsonl
from genrank.errors import DataFormatError
from genrank.reasons.grounding import MAX_CHARS, Facts, ground, named_wishes
from genrank.reasons.write import tidy
from genrank.text.clean import clean, fold, number_text
from genrank.text.injection import neutralise
from genrank.text.language import language
from genrank.types import Interaction, Listing, Query

FILE = "reasons.jsonl"
"""Where a dataset folder holds a teacher's reasons: lines with ``query_id``, ``listing_id`` and ``reason``."""

_TRIES = 8
_LONGEST = 60  # characters of a value that is quoted whole

_WORDS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "en": {
        "title": (
            "it is listed as “{}”",
            "its title says “{}”",
            "the title names “{}”",
            "it has “{}” in its title",
            "“{}” stands in its title",
        ),
        "attribute": ("its {key} is {}", "the {key} is {}", "it has {} as its {key}", "{key}: {}"),
        "brand": ("its brand is {}", "it is by {}", "it comes from {}", "the brand is {}"),
        "category": ("it is in {}", "it belongs to {}", "you find it under {}"),
        "price": ("it costs {}", "its price is {}", "it is priced at {}"),
        "purchase": ("you bought {} before", "you have bought {}"),
        "view": ("you viewed {}", "you looked at {}"),
        "click": ("you clicked {}",),
        "cart": ("you put {} in the cart",),
        "rating": ("you rated {}",),
    },
    "zh": {
        "title": ("名称里有“{}”", "标题写着“{}”", "名称是“{}”", "标题提到“{}”"),
        "attribute": ("{key}是{}", "{key}为{}", "它的{key}是{}", "{key}：{}"),
        "brand": ("品牌是{}", "它是{}的商品", "来自{}"),
        "category": ("属于{}", "在{}分类里", "类别是{}"),
        "price": ("价格是{}", "售价{}", "卖{}"),
        "purchase": ("您买过{}", "您以前买过{}"),
        "view": ("您看过{}", "您浏览过{}"),
        "click": ("您点击过{}",),
        "cart": ("您加入过购物车：{}",),
        "rating": ("您评过分：{}",),
    },
}
_JOINS = {"en": (" and ", ", and ", "; "), "zh": ("，", "，而且", "；")}
_STOPS = {"en": ".", "zh": "。"}
_ENDS = ".!?。！？"


def write_reason(window: TrainingWindow, place: int, chance: random.Random) -> str:
    """One sentence on why a candidate fits, in the query's language; empty if no wish is met.

    Args:
        window: Query, history and candidates.
        place: Place of the candidate, 0-based.
        chance: Chooses facts and words.
    """
    spoken = language(window.query.text)
    if spoken == "other":
        return ""
    listing = window.candidates[place].listing
    others = [one.listing for i, one in enumerate(window.candidates) if i != place]
    facts = Facts(window.query, listing, window.history, others)
    telling, plain = _clauses(window, listing, _WORDS[spoken], chance)
    for _ in range(_TRIES):
        chosen = chance.sample(telling, min(len(telling), chance.randint(1, 2)))
        if plain and (not chosen or chance.random() < 0.3):
            chosen.append(chance.choice(plain))
        text = clean(chance.choice(_JOINS[spoken]).join(chosen)) + _STOPS[spoken]
        text = text[:1].upper() + text[1:]
        named = len(text) <= MAX_CHARS and named_wishes(text, facts)
        if chosen and named and not ground(text, facts).rewritten:
            return text
    return ""


def check_reason(
    text: str, query: Query, listing: Listing, history: Sequence[Interaction], others: Sequence[Listing]
) -> tuple[str, str]:
    """Check a teacher's reason, and cut it to the sentence that may be learned.

    Args:
        text: As it was written.
        query: What the shopper typed.
        listing: What it is for.
        history: The shopper's past.
        others: The other candidates.

    Returns:
        The reason, one sentence with its full stop, and an empty text; or an empty text, and why it was dropped.
    """
    said = tidy(text).removesuffix(" …")
    if not said:
        return "", "empty"
    if said[-1] not in _ENDS:
        said += _STOPS.get(language(query.text), ".")
    if len(said) > MAX_CHARS:
        return "", "too long"
    if neutralise(said) != said:
        return "", "speaks to a model"
    if ground(said, Facts(query, listing, history, others)).rewritten:
        return "", "not grounded"
    return said, ""


def reason_writers(folders: Sequence[str | Path]) -> list[ReasonWriter]:
    """For each dataset who writes its reasons: a teacher, if any of them has a teacher's; otherwise `write_reason`.

    A teacher's reasons say more than those made of shared words, and a model that learned both would write both. So
    where there are some, nothing else is learned.

    Args:
        folders: Dataset folders, with ``reasons.jsonl`` or without.

    Raises:
        DataFormatError: When a line of such a file is broken.
    """
    if any((Path(folder).expanduser() / FILE).exists() for folder in folders):
        return [teacher_reasons(folder) for folder in folders]
    return [write_reason for _ in folders]


def teacher_reasons(folder: str | Path) -> ReasonWriter:
    """Writes a teacher's reasons; nothing for a listing without one.

    A window may show less than the teacher saw (fields or the history left out): a reason that the window does not
    support is not taken.

    Args:
        folder: A dataset folder, with ``reasons.jsonl`` or without.

    Raises:
        DataFormatError: When a line of that file is broken.
    """
    path = Path(folder).expanduser() / FILE
    known: dict[tuple[str, str], str] = {}
    for number, fields in read_jsonl(path) if path.exists() else ():
        if isinstance(fields, DataFormatError):
            raise fields
        names = ("query_id", "listing_id", "reason")
        if not isinstance(fields, dict) or not all(isinstance(fields.get(name), str) for name in names):
            raise DataFormatError(str(path), number, f"an object with the texts {', '.join(names)}", f"{fields!r:.80}")
        known[fields["query_id"], fields["listing_id"]] = fields["reason"]

    def write(window: TrainingWindow, place: int, _: random.Random) -> str:
        listings = [candidate.listing for candidate in window.candidates]
        text = known.get((window.query.query_id, listings[place].listing_id), "")
        others = [*listings[:place], *listings[place + 1 :]]
        return check_reason(text, window.query, listings[place], window.history, others)[0]

    return write


def _clauses(
    window: TrainingWindow, listing: Listing, words: Mapping[str, Sequence[str]], chance: random.Random
) -> tuple[list[str], list[str]]:
    """What the listing shares with the query and the past, and what else it is."""
    query = window.query.text
    telling = [chance.choice(words["title"]).format(run) for run in shared_runs(listing.title, query)]
    plain: list[str] = []
    for key, value in listing.attributes.items():
        if 0 < len(value) <= _LONGEST:
            near = next(shared_runs(f"{key} {value}", query), "")
            (telling if near else plain).append(chance.choice(words["attribute"]).format(value, key=key))
    if listing.brand:
        near = next(shared_runs(listing.brand, query), "")
        (telling if near else plain).append(chance.choice(words["brand"]).format(listing.brand))
    if listing.category:
        near = next(shared_runs(listing.category[-1], query), "")
        (telling if near else plain).append(chance.choice(words["category"]).format(listing.category[-1]))
    if listing.price:
        amount = f"{number_text(listing.price.amount)} {listing.price.currency}".strip()
        plain.append(chance.choice(words["price"]).format(amount))
    for interaction in window.history[-5:]:
        past = interaction.listing
        if past.brand and past.brand == listing.brand:
            telling.append(chance.choice(words[interaction.event]).format(past.brand))
        elif past.category and past.category == listing.category:
            telling.append(chance.choice(words[interaction.event]).format(past.title[:_LONGEST]))
    return list(dict.fromkeys(telling)), list(dict.fromkeys(plain))


def shared_runs(text: str, query: str) -> Iterator[str]:
    """Runs of words of a text that are in the query too, plurals or not; at least two characters if Chinese."""
    wanted = {_stem(word) for word in _split(query)}
    run: list[tuple[int, int]] = []
    text = clean(text)

    def whole(run: Sequence[tuple[int, int]]) -> str:
        return text[run[0][0] : run[-1][1]] if run else ""

    for match in re.finditer(r"[a-z0-9]+|[^\W_]", fold(text)):
        if _stem(match[0]) in wanted and (not run or not re.search(r"\w", text[run[-1][1] : match.start()])):
            run.append(match.span())
            continue
        if len(found := whole(run)) > 1:
            yield found
        run = [match.span()] if _stem(match[0]) in wanted else []
    if len(found := whole(run)) > 1:
        yield found


def _split(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+|[^\W_]", fold(clean(text)))


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.isascii() and word.endswith("s") else word
