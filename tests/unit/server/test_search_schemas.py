from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from genrank.server.search_schemas import (
    EVENT_EXAMPLES,
    SEARCH_EXAMPLES,
    EventRequest,
    SearchFilters,
    SearchRequest,
    SearchStage,
)


@pytest.mark.parametrize("name", SEARCH_EXAMPLES)
def test_examples_of_searches_fit(name: str) -> None:
    asked = SearchRequest.model_validate(SEARCH_EXAMPLES[name]["value"])
    assert asked.model_dump(exclude_unset=True).keys() == SEARCH_EXAMPLES[name]["value"].keys()


@pytest.mark.parametrize("name", EVENT_EXAMPLES)
def test_examples_of_events_fit(name: str) -> None:
    assert EventRequest.model_validate(EVENT_EXAMPLES[name]["value"]).event == "click"


def test_filters_and_stages_are_those_that_there_are() -> None:
    pytest.importorskip("numpy")
    from genrank.search.filters import Filters
    from genrank.search.pipeline import StageName

    assert list(SearchFilters.model_fields) == [field.name for field in dataclasses.fields(Filters)]
    assert get_args(SearchStage.model_fields["name"].annotation) == get_args(StageName)
