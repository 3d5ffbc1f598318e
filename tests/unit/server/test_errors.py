from __future__ import annotations

import pydantic
import pytest

from genrank.errors import InputError
from genrank.server.errors import ApiError, invalid, of_input, of_validation, too_large
from genrank.server.schemas import RerankRequest


def test_an_error_names_the_field_the_value_and_the_fix() -> None:
    error = too_large("documents", "documents", 1000, 1500)
    assert (error.status, error.field) == (413, "documents")
    assert error.message == "documents: at most 1,000 documents, got 1,500; send less"
    assert invalid("", "no JSON").message == "no JSON"
    assert of_input(InputError("must be text", field="query")).message == "query: must be text"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": None}, "query: Input should be a valid string, got None; write it as text, in quotes"),
        ({"top_n": "3"}, "top_n: Input should be a valid integer, got '3'; write it as a whole number"),
        ({"top_n": -1}, "top_n: Input should be greater than or equal to 0, got -1"),
        ({"return_documents": "yes"}, "return_documents: Input should be a valid boolean, got 'yes'; write it as"),
        ({"texts": ["a", 3]}, "texts[1]: Input should be a valid string, got 3"),
        ({"history": [{"event": "saw"}]}, "history[0].event: Input should be 'view', 'click'"),
        ({"history": [{"event": "view", "listing": {"listing_id": "h"}}]}, "history[0].listing.title: Field required"),
    ],
)
def test_a_field_that_does_not_fit_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        RerankRequest.model_validate({"query": "q"} | change)
    error = of_validation(caught.value)
    assert error.status == 422
    assert error.message.startswith(message)
    assert error.field == message.split(": ")[0]


def test_headers_say_what_to_do_next() -> None:
    assert ApiError(401, "").headers == {"WWW-Authenticate": "Bearer"}
    assert ApiError(429, "", retry_after=3).headers == {"Retry-After": "3"}
    assert ApiError(422, "").headers == {}
