"""Reading a call; its errors as responses are in test_app.py."""

from __future__ import annotations

import pytest

from genrank.errors import BudgetError, InputError
from genrank.server.calls import Call
from genrank.server.documents import read_documents
from genrank.server.errors import ApiError
from genrank.server.schemas import RerankRequest
from genrank.types import Query


def make_call() -> Call[RerankRequest]:
    documents = [" ", "Red dress"]
    read = read_documents(documents, field="texts", most_text=100)
    asked = RerankRequest(query="dress", texts=["a"])
    return Call("/rerank", asked, "shop", Query("dress"), documents, read, "texts", 1.0)


def test_an_error_about_a_candidate_names_the_document_that_it_was() -> None:
    with pytest.raises(InputError, match=r"^texts\[1\]\.score: is missing") as caught, make_call().errors():
        raise InputError("is missing", field="candidates[0].score")
    assert caught.value.field == "texts[1].score"
    with pytest.raises(InputError, match=r"^reasons: too many"), make_call().errors():
        raise InputError("too many", field="reasons")


@pytest.mark.parametrize("error", [BudgetError("no room", least=9), InputError("too many", field="window")])
def test_what_no_prompt_can_hold_is_too_large(error: InputError) -> None:
    with pytest.raises(ApiError) as caught, make_call().errors():
        raise error
    assert (caught.value.status, caught.value.field) == (413, "texts")
