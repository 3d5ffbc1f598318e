"""What a model learns of understanding queries: the questions of `genrank.search.understanding` with their answers.

A dataset folder's ``intents.jsonl`` has the labels. Each labelled query of a split gives an example for each question
that it answers, as exactly the tokens that serving asks.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.data import Example, Skipped
from finetune.windows import MEASURED
from genrank.adapters import TrainedPrompt
from genrank.data.dataset import Dataset
from genrank.engines.tokenizer import Tokenizer
from genrank.errors import InputError
from genrank.search.understanding.choosing import choose
from genrank.search.understanding.labels import FILE, LabelledQuery, labelled_queries, read_labels
from genrank.search.understanding.understanding import Lesson, Understanding
from genrank.search.understanding.vocabulary import Vocabulary
from genrank.search.understanding.wording import TRAINED, digest
from genrank.testing import ScriptedEngine

METRIC = "accuracy_understanding"
"""Share of the questions about the dev queries that are answered right."""

Labels = Mapping[str, Mapping[str, Any]]
"""Label lines by query id."""


def labels_of(name: str) -> dict[str, dict[str, Any]]:
    """The labels of a dataset; none if it has no ``intents.jsonl``.

    Args:
        name: Its folder, or ``sample-shop``.

    Raises:
        DataFormatError: When a line is broken.
    """
    if name == "sample-shop":
        with importlib.resources.as_file(importlib.resources.files("genrank.data") / "sample_shop" / FILE) as path:
            return read_labels(path)
    path = Path(name).expanduser() / FILE
    return read_labels(path) if path.exists() else {}


def labelled(dataset: Dataset, labels: Labels, split: str) -> list[LabelledQuery]:
    """The labelled queries of a split, in the dataset's order; of equal texts, the first.

    Train queries whose text is also that of a query to be measured, asked by another shopper, are left out.
    """
    texts = ((query.query.query_id, query.query.text) for query in dataset.queries if query.split == split)
    found = labelled_queries(labels, texts).values()
    if split in MEASURED:
        return list(found)
    measured = {query.query.text for query in dataset.queries if query.split in MEASURED}
    return [one for one in found if one.query not in measured]


def make_understanding_examples(
    dataset: Dataset, labels: Labels, tokenizer: Tokenizer, *, max_tokens: int, skipped: Skipped | None = None
) -> Iterator[Example]:
    """An example for each question that a labelled train query answers.

    Args:
        dataset: With the queries, and the listings whose words are the answers.
        labels: See `labels_of`.
        tokenizer: The model's.
        max_tokens: The most tokens of a sequence.
        skipped: Counts the questions that gave no example.
    """
    # only makes the questions, and asks nobody
    asks = Understanding(ScriptedEngine([], tokenizer=tokenizer), Vocabulary.of(dataset.listings.values()))
    for query in labelled(dataset, labels, "train"):
        for lesson in asks.lessons(query):
            example = make_understanding_example(lesson)
            if len(example.input_ids) <= max_tokens:
                yield example
            elif skipped is not None:
                skipped.count(f"{example.form}: more than {max_tokens} tokens")


def make_understanding_example(lesson: Lesson) -> Example:
    """A question and its first right answer; where other right ones go on differently, these are right too."""
    asked, answers = list(lesson.choice.ids), lesson.choice.answers
    answer = answers[lesson.right[0]]
    choices = []
    for place in range(len(answer)):
        same = (answers[i] for i in lesson.right if answers[i][:place] == answer[:place])
        choices.append(sorted({one[place] for one in same}))
    places = [len(asked) - 1 + i for i in range(len(answer))]
    return Example("understanding", [*asked, *answer], [0], [], [], [], [], places, choices)


def dev_reader(dataset: Dataset, labels: Labels, most: int | None = None) -> Callable[[Any], dict[str, float]]:
    """A function that asks an engine about the labelled dev queries, and returns `METRIC`.

    Args:
        dataset: With the queries.
        labels: See `labels_of`.
        most: Maximum number of queries, the first ones; None takes all.

    Raises:
        InputError: When no dev query has a label that answers a question.
    """
    queries = labelled(dataset, labels, "dev")[:most]
    vocabulary = Vocabulary.of(dataset.listings.values())

    def read(engine: Any) -> dict[str, float]:
        asks = Understanding(engine, vocabulary)
        lessons = [lesson for query in queries for lesson in asks.lessons(query)]
        scores, _ = choose(engine, [lesson.choice for lesson in lessons])
        right = [
            max(range(len(row)), key=row.__getitem__) in lesson.right
            for row, lesson in zip(scores, lessons, strict=True)
        ]
        return {METRIC: sum(right) / len(right)}

    tries = Understanding(ScriptedEngine([]), vocabulary)
    if not any(tries.lessons(query) for query in queries):
        raise InputError(f"no dev query of {dataset.name} has a label in {FILE} that can be asked about", field="dev")
    return read


def learned_words(forms: Sequence[str]) -> dict[str, TrainedPrompt]:
    """What an adapter's manifest says of the form ``understanding``, if it is among `forms`."""
    return {TRAINED: TrainedPrompt(name=TRAINED, hash=digest())} if TRAINED in forms else {}
