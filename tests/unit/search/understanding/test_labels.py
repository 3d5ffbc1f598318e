"""Labelled queries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genrank.errors import DataFormatError, InputError
from genrank.search.understanding.labels import LabelledQuery, labelled_queries, read_labels

LABEL: dict[str, Any] = {"query_id": "q1", "categories": [["Women", "Dresses"]], "attributes": {"season": "summer"}}


def test_a_label_says_what_its_query_asks_for() -> None:
    found = labelled_queries({"q1": LABEL}, [("q1", "summer dress")])
    assert found == {"q1": LabelledQuery("summer dress", (("Women", "Dresses"),), {"season": "summer"})}


def test_queries_without_a_label_and_repeated_texts_are_left_out() -> None:
    texts = [("q0", "coat"), ("q1", "summer dress"), ("q2", "summer dress")]
    assert list(labelled_queries({"q1": LABEL, "q2": LABEL}, texts)) == ["q1"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": "a", "colour": "red"}, "colour"),
        ({"query": "a", "categories": "Women"}, "categories"),
        ({"query": "a", "attributes": {"size": 4}}, "attributes.size"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        LabelledQuery.from_dict(fields)
    assert caught.value.field == field


@pytest.mark.parametrize("line", ['{"categories": []}', '{"query_id": "q1"}', "[1]", "{"])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "intents.jsonl"
    file.write_text(f'{{"query_id": "q1"}}\n{line}\n')
    with pytest.raises(DataFormatError, match=r"intents\.jsonl:2"):
        read_labels(file)
