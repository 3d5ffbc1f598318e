"""What a model learns from: windows of candidates with their gains, made of a dataset folder.

A window is drawn as a shop would show it: judged listings of one query, together with listings that were not judged for
it: near ones of the first stage (hard negatives) and any others of the catalogue. What is drawn depends only on the
seed, the query's id and the number of the window: every machine draws the same windows, and adding or removing a query
changes no other query's.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from genrank.data.dataset import Dataset, DatasetQuery
from genrank.decoding.judgements import log_odds
from genrank.errors import InputError
from genrank.experiment.splits import query_identity
from genrank.reasons import lexicon
from genrank.types import Candidate, Event, Intent, Interaction, Listing, Query

DROPPABLE: Mapping[str, object] = {
    "description": "",
    "brand": "",
    "category": (),
    "price": None,
    "attributes": {},
    "rating": None,
    "rating_count": None,
    "in_stock": None,
}
"""Fields that an augmentation may leave out, with the values that they have then."""


TAUGHT = "distill"
"""The first stage of a dataset whose grades are a teacher's (`finetune.distill`)."""

MOST_SEEN = 4
"""Listings of the longest history that is made up."""

EVENTS: tuple[Event, ...] = ("view", "cart", "purchase")
"""What a shopper did with them."""

MEASURED = ("dev", "test")
"""Splits that are never trained on."""

_CHANCES = (
    "best_first", "drop_fields", "query_noise", "drop_history", "cut_history", "random_history", "drop_intent",
)  # fmt: skip
_LEAST = 0.005  # probability; a teacher's are rounded to hundredths


@dataclass(frozen=True, slots=True)
class TrainingWindow:
    """Candidates of one query, and what each is worth.

    Attributes:
        query: What the shopper typed.
        history: The shopper's past, oldest first.
        candidates: ``[n]`` in the order in which the model sees them. If a teacher labelled them, their scores are the
            log-odds of its labels, and a template with ``grade`` shows them, as in the second stage of a cascade.
        gains: ``[n]``; equal gains are no preference.
        intent: What the query means, for a template that says so; None when unknown.
    """

    query: Query
    history: tuple[Interaction, ...]
    candidates: tuple[Candidate, ...]
    gains: tuple[float, ...]
    intent: Intent | None = None


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """How windows are drawn.

    Attributes:
        per_query: Windows of each query.
        least: Candidates in the smallest window, 2 or more; fewer if a query does not have that many.
        most: Candidates in the largest; all sizes in between are equally likely.
        hard_negatives: The most unjudged listings of the query's first stage in a window; all numbers up to it are
            equally likely, but a window of fewer than `least` is filled up, with these first.
        random_negatives: The most listings of the catalogue that were not judged for the query; likewise.
        shuffle: Whether candidates are in random order; otherwise in that of the dataset, the first stage's.
        best_first: Chance that the best candidates come first, as the second stage of a cascade sees them if its first
            stage gave the gains.
        drop_fields: Chance that a field (not the title) is left out of all listings of a window.
        query_noise: Chance that a query is varied: case, plural, word order, a lost letter, a synonym.
        drop_history: Chance that a window has no history, so that the model works without one too.
        cut_history: Chance that a history is cut to a random number of its latest interactions.
        drop_intent: Chance that a window has no intent, so that the model works without one too.
        random_history: Chance that a query without a history gets one of a few of the catalogue's listings, which
            changes no gain: so the model learns that a past may say nothing about a search.
    """

    per_query: int = 1
    least: int = 2
    most: int = 20
    hard_negatives: int = 0
    random_negatives: int = 0
    shuffle: bool = True
    best_first: float = 0.0
    drop_fields: float = 0.0
    query_noise: float = 0.0
    drop_history: float = 0.0
    cut_history: float = 0.0
    random_history: float = 0.0
    drop_intent: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: When one is out of range.
        """
        for name, number, least in (
            ("per_query", self.per_query, 1),
            ("least", self.least, 2),
            ("most", self.most, self.least),
            ("hard_negatives", self.hard_negatives, 0),
            ("random_negatives", self.random_negatives, 0),
        ):
            if number < least:
                raise InputError(f"must be at least {least}, got {number}", field=name)
        for name in _CHANCES:
            if not 0 <= (chance := getattr(self, name)) <= 1:
                raise InputError(f"must be a chance, 0 to 1, got {chance}", field=name)


def draw_windows(dataset: Dataset, split: str, options: WindowOptions, seed: int = 0) -> Iterator[TrainingWindow]:
    """Windows of a split, query by query; a query whose candidates all have one gain teaches nothing and gives none.

    Args:
        dataset: Where the windows come from.
        split: Which of its queries.
        options: How the windows are drawn.
        seed: Seed of what is drawn.

    Raises:
        InputError: When the split has no query.
    """
    catalogue = list(dataset.listings)
    for query in dataset.split(split):
        for number in range(options.per_query):
            chance = random.Random(f"{seed} {query.query.query_id} {number}")
            if window := _draw(dataset, query, catalogue, options, chance):
                yield window


def check_splits(datasets: Sequence[Dataset], train: str, others: Iterable[str]) -> None:
    """Refuse data in which a model is measured on what it learned.

    Two queries are the same when they have the same words (`genrank.text.words.words`), whatever their case, order and
    punctuation, and their histories hold the same listings. Accents count, and so do the signs inside numbers.

    Args:
        datasets: All datasets that are trained on or measured.
        train: The split that is learned.
        others: Splits that are measured.

    Raises:
        InputError: When a query is in both; the message says which.
    """
    learned = {
        query_identity(query): query for dataset in datasets for query in dataset.queries if query.split == train
    }
    for dataset, query in _measured(datasets, others):
        if same := learned.get(query_identity(query)):
            raise InputError(
                f"query {query.query.query_id} of {dataset.name} ({query.split}) is query {same.query.query_id} of the "
                f"split {train} too: {query.query.text!r}; take one of them out, or leave such queries out of training "
                "with leaks: drop",
                field="split",
            )


def drop_leaks(dataset: Dataset, datasets: Sequence[Dataset], train: str, others: Iterable[str]) -> tuple[Dataset, int]:
    """The dataset without the train queries for which `check_splits` would refuse it, and how many these were.

    Args:
        dataset: The dataset to learn from.
        datasets: All datasets that are trained on or measured.
        train: The split that is learned.
        others: Splits that are measured.
    """
    measured = {query_identity(query) for _, query in _measured(datasets, others)}
    kept = [query for query in dataset.queries if query.split != train or query_identity(query) not in measured]
    return dataclasses.replace(dataset, queries=kept), len(dataset.queries) - len(kept)


def _measured(datasets: Sequence[Dataset], splits: Iterable[str]) -> Iterator[tuple[Dataset, DatasetQuery]]:
    splits = set(splits)
    return ((dataset, query) for dataset in datasets for query in dataset.queries if query.split in splits)


def _draw(
    dataset: Dataset, query: DatasetQuery, catalogue: Sequence[str], options: WindowOptions, chance: random.Random
) -> TrainingWindow | None:
    query_id = query.query.query_id
    grades = dataset.qrels.get(query_id, {})
    first_stage = list(dataset.candidates.get(query_id, grades))
    size = chance.randint(options.least, options.most)
    near = [key for key in first_stage if key not in grades]
    hard = chance.sample(near, min(len(near), chance.randint(0, options.hard_negatives)))
    others = _others(catalogue, {*grades, *hard}, chance.randint(0, options.random_negatives), chance)
    judged = _spread(grades, max(2, size - len(hard) - len(others)), dataset, chance)
    if (missing := options.least - len(judged) - len(hard) - len(others)) > 0:
        taken = {*hard, *others}
        left = [key for key in near if key not in taken]
        more = chance.sample(left, min(len(left), missing, options.hard_negatives - len(hard)))
        count = min(missing - len(more), options.random_negatives - len(others))
        others += [*more, *_others(catalogue, {*grades, *taken, *more}, count, chance)]
    chosen = [*judged, *hard, *others][: max(size, len(judged))]
    gains = {key: dataset.grades[grades[key]].gain if key in grades else 0.0 for key in chosen}
    if len(set(gains.values())) < 2:
        return None
    places = {key: place for place, key in enumerate(first_stage)}
    chosen.sort(key=lambda key: places.get(key, len(places)))
    if options.shuffle:
        chance.shuffle(chosen)
    if options.best_first and chance.random() < options.best_first:  # without it, what is drawn stays as it was
        chosen.sort(key=lambda key: -gains[key])
    lost = [field for field in DROPPABLE if chance.random() < options.drop_fields]
    text = noisy(query.query.text, chance) if chance.random() < options.query_noise else query.query.text
    history = query.history
    if history and chance.random() < options.cut_history:
        history = history[-chance.randint(1, len(history)) :]
    if chance.random() < options.drop_history:
        history = ()
    if not query.history and chance.random() < options.random_history:
        seen = _others(catalogue, set(chosen), chance.randint(1, MOST_SEEN), chance)
        history = tuple(Interaction(chance.choice(EVENTS), dataset.listings[key]) for key in seen)
    intent = query.intent
    if intent and options.drop_intent and chance.random() < options.drop_intent:
        intent = None
    return TrainingWindow(
        Query(text, query_id),
        history,
        tuple(Candidate(without(dataset.listings[key], lost), score=_judged(dataset, gains[key])) for key in chosen),
        tuple(gains[key] for key in chosen),
        intent,
    )


def _judged(dataset: Dataset, gain: float) -> float | None:
    """What a first stage would say of a candidate: the log-odds of the teacher's label, None without a teacher."""
    return log_odds(min(max(gain, _LEAST), 1 - _LEAST)) if dataset.first_stage == TAUGHT else None


def _others(catalogue: Sequence[str], taken: set[str], count: int, chance: random.Random) -> list[str]:
    """Listings of the catalogue other than those taken, at most `count`."""
    found: list[str] = []
    for key in chance.sample(catalogue, min(len(catalogue), count + len(taken))):
        if key not in taken and len(found) < count:
            found.append(key)
    return found


def _spread(grades: Mapping[str, int], count: int, dataset: Dataset, chance: random.Random) -> list[str]:
    """That many judged listings at random, of at least two different gains if possible."""
    keys = list(grades)
    chance.shuffle(keys)

    def gain(key: str) -> float:
        return dataset.grades[grades[key]].gain

    chosen, rest = keys[:count], keys[count:]
    if len({gain(key) for key in chosen}) == 1:
        other = next((key for key in rest if gain(key) != gain(chosen[0])), None)
        chosen = [*chosen[:-1], other] if other else chosen
    return chosen


def without(listing: Listing, fields: Iterable[str]) -> Listing:
    """The listing without some of its fields, of `DROPPABLE`."""
    lost = {field: DROPPABLE[field] for field in fields}
    return dataclasses.replace(listing, **lost) if lost else listing  # type: ignore[arg-type]


def noisy(text: str, chance: random.Random) -> str:
    """A query as another shopper might type it."""
    return chance.choice(_NOISES)(text, chance)


def _swapped(text: str, chance: random.Random) -> str:
    words = text.split()
    chance.shuffle(words)
    return " ".join(words)


def _plural(text: str, chance: random.Random) -> str:
    """One English word of the query with its plural ending put on or taken off."""
    words = text.split()
    places = [i for i, word in enumerate(words) if re.fullmatch(r"[A-Za-z]{4,}", word)]
    if places:
        i = chance.choice(places)
        ends = words[i].endswith("s") and not words[i].endswith("ss")
        words[i] = words[i][:-1] if ends else words[i] + ("" if words[i].endswith("s") else "s")
    return " ".join(words)


def _misspelt(text: str, chance: random.Random) -> str:
    """One letter inside an English word of six or more is left out."""
    places = [match.start() + i for match in re.finditer(r"[A-Za-z]{6,}", text) for i in range(1, len(match[0]) - 1)]
    at = chance.choice(places) if places else len(text)
    return text[:at] + text[at + 1 :]


def _synonym(text: str, chance: random.Random) -> str:
    """One word of the query replaced by a synonym in the same script, if one is known."""
    words = text.split()
    known = [(i, other) for i, word in enumerate(words) for other in _SYNONYMS.get(word.lower(), ())]
    if known:
        i, words[i] = chance.choice(known)
    return " ".join(words)


_GROUPS = (*lexicon.COLOURS, *lexicon.MATERIALS)
_SYNONYMS = {
    word: [other for other in group if other != word and other.isascii() == word.isascii()]
    for group in _GROUPS
    for word in group
}
_NOISES: tuple[Callable[[str, random.Random], str], ...] = (
    lambda text, _: text.lower(),
    lambda text, _: text.upper(),
    lambda text, _: text.title(),
    _swapped,
    _plural,
    _misspelt,
    _synonym,
)
