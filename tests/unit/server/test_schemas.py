from __future__ import annotations

import pytest

from genrank.server.schemas import EXAMPLES, RerankRequest


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_are_valid(name: str) -> None:
    assert RerankRequest.model_validate(EXAMPLES[name]["value"]).query


def test_null_is_as_if_left_out_in_every_optional_field() -> None:
    optional = {name: None for name in RerankRequest.model_fields if name != "query"}
    assert RerankRequest.model_validate({"query": "q"} | optional) == RerankRequest(query="q")


def test_unknown_fields_are_ignored() -> None:
    fields = {"query": "q", "max_tokens_per_doc": "many", "relevant_spans": {}, "truncate": True}
    assert RerankRequest.model_validate(fields) == RerankRequest(query="q")


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [({}, None), ({"top_n": 0}, None), ({"top_n": 3}, 3), ({"top_k": 2}, 2), ({"top_n": None, "top_k": 0}, None)],
)
def test_zero_and_null_want_all(fields: dict[str, int | None], wanted: int | None) -> None:
    assert RerankRequest.model_validate({"query": "q"} | fields).wanted == wanted
