from __future__ import annotations

import inspect
import re

import pydantic
import pytest

from genrank import errors
from genrank.errors import first_problem, shown


def _tree_of_the_docstring() -> dict[str, str]:
    """``{class: parent}`` as drawn at the head of the module."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.search(r"[A-Za-z]+Error\b", line):
            depth = found.start() // 4  # four columns a level
            del path[depth - 1 :]
            parents[found[0]] = path[-1] if path else ""
            path.append(found[0])
    return parents


def test_the_tree_of_the_docstring_is_the_tree_of_the_classes() -> None:
    classes = {
        name: thing.__mro__[1].__name__
        for name, thing in vars(errors).items()
        if inspect.isclass(thing) and thing.__module__ == errors.__name__
    }
    assert _tree_of_the_docstring() == classes | {"GenrankError": ""}


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.InputError("m"), ValueError),
        (errors.DataFormatError("p", 1, "a", "b"), ValueError),
        (errors.ConfigError("m"), ValueError),
        (errors.MissingExtraError("torch", "transformers"), ImportError),
    ],
)
def test_errors_are_caught_as_their_builtin_too(error: Exception, builtin: type[Exception]) -> None:
    assert isinstance(error, builtin)
    assert isinstance(error, errors.GenrankError)


def test_input_error_begins_with_its_field() -> None:
    error = errors.InputError("must be positive", field="candidates[3].price.amount")
    assert str(error) == "candidates[3].price.amount: must be positive"
    assert error.field == "candidates[3].price.amount"
    assert str(errors.InputError("must be positive")) == "must be positive"


def test_budget_error_says_the_least_budget() -> None:
    error = errors.BudgetError("too small", least=77)
    assert (error.least, error.field) == (77, "max_prompt_tokens")


def test_data_format_error_names_path_and_line() -> None:
    error = errors.DataFormatError("a.jsonl", 7, "one JSON object", "a list")
    assert str(error) == "a.jsonl:7: expected one JSON object, found a list"
    assert (error.path, error.line) == ("a.jsonl", 7)
    assert str(errors.DataFormatError("a.jsonl", 0, "a file", "none")) == "a.jsonl: expected a file, found none"


def test_missing_extra_error_holds_the_command_that_mends_it() -> None:
    assert str(errors.MissingExtraError("torch", "transformers")).endswith("pip install 'genrank[transformers]'")


def test_the_first_of_pydantics_complaints() -> None:
    adapter = pydantic.TypeAdapter(dict[str, list[int]])
    with pytest.raises(pydantic.ValidationError) as caught:
        adapter.validate_python({"a": [1, "x", "y"]})
    errors = caught.value.errors(include_url=False)
    message = "Input should be a valid integer, unable to parse string as an integer, got 'x'"
    assert first_problem(errors) == ("a[1]", message)
    assert first_problem(errors, fixes={"int_parsing": "write 1"}) == ("a[1]", f"{message}; write 1")
    with pytest.raises(pydantic.ValidationError) as caught:
        pydantic.create_model("Model", size=(int, ...)).model_validate({})
    assert first_problem(caught.value.errors()) == ("size", "Field required")


def test_an_error_about_a_whole_object_does_not_print_the_object() -> None:
    class Span(pydantic.BaseModel):
        start: int
        stop: int

        @pydantic.model_validator(mode="after")
        def _rises(self) -> Span:
            if self.stop < self.start:
                raise ValueError(f"stop must be at least {self.start}, got {self.stop}")
            return self

    with pytest.raises(pydantic.ValidationError) as caught:
        Span.model_validate({"start": 2, "stop": 1})
    assert first_problem(caught.value.errors(include_url=False)) == ("", "stop must be at least 2, got 1")


def test_shown_is_short_and_never_fails() -> None:
    class Mute:
        def __repr__(self) -> str:
            raise ValueError

    assert shown("x") == "'x'"
    assert len(shown("x" * 1000)) == 80
    assert shown(10**5000) == "a value of type int"
    assert shown(Mute()) == "a value of type Mute"
