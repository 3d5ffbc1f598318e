from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from genrank.server import logs


@pytest.fixture
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def written(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.usefixtures("restored")
def test_a_line_is_json_with_the_fields_that_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info")
    logs.log(logging.INFO, "request", status=200, tier=None, key="夏")
    logs.log(logging.DEBUG, "too much")
    (line,) = written(capsys)
    assert line.pop("time")
    assert line == {"level": "info", "logger": "genrank.server", "event": "request", "status": 200, "key": "夏"}


@pytest.mark.usefixtures("restored")
def test_no_stack_and_no_words_of_others_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info")
    try:
        raise ValueError("the shopper's query")
    except ValueError:
        logging.getLogger("uvicorn.error").error("Exception in ASGI application", exc_info=sys.exc_info())
        logging.getLogger("some.library").warning("the shopper's query")
    first, second = written(capsys)
    assert first["error"] == "ValueError"
    assert set(second) == {"time", "level", "logger"}
    assert "shopper" not in json.dumps([first, second])
    assert ".py" not in json.dumps([first, second])
