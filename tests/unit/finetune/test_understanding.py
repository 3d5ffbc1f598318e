"""What a model learns of understanding queries: serving's own prompts, with the labelled answers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("symspellpy")
pytest.importorskip("pypinyin")
pytest.importorskip("bm25s")

from finetune.data import Example, Skipped
from finetune.understanding import (
    METRIC,
    dev_reader,
    labelled,
    labels_of,
    learned_words,
    make_understanding_example,
    make_understanding_examples,
)
from genrank.data.dataset import Dataset, DatasetQuery, Grade, sample_shop
from genrank.engines.base import ScoreRequest
from genrank.errors import DataFormatError, InputError
from genrank.search.understanding import Choice, Lesson, Understanding, Vocabulary
from genrank.search.understanding.wording import digest
from genrank.testing import ScriptedEngine, WordTokenizer
from genrank.types import Listing, Query

LISTINGS = [
    Listing("d1", "Floral dress", category=("Women", "Dresses"), attributes={"season": "summer"}),
    Listing("d2", "Party dress", category=("Women", "Dresses"), attributes={"season": "winter"}),
    Listing("c1", "Winter coat dress", category=("Women", "Coats"), attributes={"season": "winter"}),
]
LABELS: dict[str, dict[str, Any]] = {
    "q1": {"query_id": "q1", "categories": [["Women", "Dresses"]], "attributes": {"season": "summer"}},
    "q2": {"query_id": "q2", "categories": [["Women", "Coats"]]},
    "q3": {"query_id": "q3", "categories": [["Women", "Dresses"]]},
}


def shop() -> Dataset:
    texts = {"q1": ("summer dress", "train"), "q2": ("winter dress", "train"), "q3": ("dress", "dev")}
    queries = [DatasetQuery(Query(text, key), split) for key, (text, split) in texts.items()]
    return Dataset("s", "", {0: Grade("no", 0)}, {one.listing_id: one for one in LISTINGS}, queries, {})


def answer(tokenizer: WordTokenizer, example: Example) -> str:
    return tokenizer.decode(example.input_ids[example.answers[0] + 1 :])


def test_a_query_gives_a_row_for_each_question_that_its_label_answers() -> None:
    tokenizer = WordTokenizer()
    examples = list(make_understanding_examples(shop(), LABELS, tokenizer, max_tokens=999))
    end = "</assistant>"[:1]
    assert [answer(tokenizer, one) for one in examples] == [
        f"Women > Dresses{end}", f"summer{end}", f"Women > Coats{end}", f"any{end}",
    ]  # fmt: skip
    for example in examples:
        assert example.form == "understanding"
        assert example.reads == []
        prompt = tokenizer.decode(example.input_ids[: example.answers[0] + 1])
        assert prompt.endswith("</user><assistant>")
        assert [example.input_ids[place + 1] for place in example.answers] == [one[0] for one in example.choices]
        assert example.to_row()["length"] == len(example.input_ids)


def test_training_and_serving_read_the_same_prompts() -> None:
    tokenizer = WordTokenizer()
    asked: list[ScoreRequest] = []

    def likes(request: Any) -> list[list[float]]:
        asked.append(request)
        return [[0.0] * len(request.targets) for _ in request.reads]

    engine = ScriptedEngine(likes, tokenizer=tokenizer)
    Understanding(engine, Vocabulary.of(LISTINGS)).understand("summer dress")
    served = [tuple(request.ids[: request.reads[0] + 1]) for request in asked]
    (learned, *_) = make_understanding_examples(shop(), LABELS, tokenizer, max_tokens=999)
    # serving reads on to where the answers differ: behind "Women >"
    assert any(one[: learned.answers[0] + 1] == tuple(learned.input_ids[: learned.answers[0] + 1]) for one in served)


def test_all_right_answers_are_right() -> None:
    example = make_understanding_example(
        Lesson("x", Choice([1, 2], [[5, 6, 9], [5, 7, 9], [8, 9], [5, 4, 9]]), (1, 3, 2))
    )
    assert example.input_ids == [1, 2, 5, 7, 9]
    assert (example.answers, example.choices) == ([1, 2, 3], [[5, 8], [4, 7], [9]])


def test_what_is_too_long_is_counted() -> None:
    skipped = Skipped()
    assert not list(make_understanding_examples(shop(), LABELS, WordTokenizer(), max_tokens=50, skipped=skipped))
    assert skipped.why == {"understanding: more than 50 tokens": 4}


def test_the_dev_queries_are_asked_about() -> None:
    def engine_that_likes(liked: str) -> ScriptedEngine:
        def likes(request: Any) -> list[list[float]]:
            return [[float(text == liked) for text in engine.tokenizer.texts(request.targets)] for _ in request.reads]

        engine = ScriptedEngine(likes)
        return engine

    read = dev_reader(shop(), LABELS)
    assert read(engine_that_likes(" Dresses")) == {METRIC: 1.0}
    assert read(engine_that_likes(" Coats")) == {METRIC: 0.0}
    with pytest.raises(InputError, match=r"dev: no dev query of s has a label in intents\.jsonl"):
        dev_reader(shop(), {})


def test_labels_are_those_of_the_folder(tmp_path: Path) -> None:
    assert set(labels_of("sample-shop")) == {query.query.query_id for query in sample_shop().queries}
    assert labels_of(str(tmp_path)) == {}
    path = tmp_path / "intents.jsonl"
    path.write_text(json.dumps(LABELS["q1"]))
    assert labels_of(str(tmp_path)) == {"q1": LABELS["q1"]}
    path.write_text("{}")
    with pytest.raises(DataFormatError, match=r"intents\.jsonl:1: expected a query_id"):
        labels_of(str(tmp_path))


def test_a_manifest_names_the_words() -> None:
    assert learned_words(["pointwise"]) == {}
    assert learned_words(["understanding"])["understanding"].hash == digest()


def test_a_text_that_is_measured_is_not_learned() -> None:
    again = dataclasses.replace(shop().queries[0], query=Query("summer dress", "q4"), split="test")
    dataset = dataclasses.replace(shop(), queries=[*shop().queries, again])
    assert [one.query for one in labelled(dataset, LABELS, "train")] == ["winter dress"]
    assert [one.query for one in labelled(shop(), LABELS, "train")] == ["summer dress", "winter dress"]
