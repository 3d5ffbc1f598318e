from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("mcp", reason="mcp is not installed: pip install 'genrank[mcp]'")

from genrank.cli.main import main


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """What was served, with the way in which an interrupt would end it."""
    calls: list[tuple[Any, ...]] = []
    before = signal.getsignal(signal.SIGINT)
    for name in ("serve_stdio", "serve_http"):
        monkeypatch.setattr(
            f"genrank.integrations.mcp.{name}",
            lambda *call, name=name: calls.append((name, *call, signal.getsignal(signal.SIGINT))),
        )
    yield calls
    signal.signal(signal.SIGINT, before)


def test_flags_reach_the_model(asked: list[tuple[object, ...]], served: list[tuple[Any, ...]]) -> None:
    assert main(["mcp", "--model", "m", "--dtype", "float32", "--decoding", "inline", "--http", "8123"]) == 0
    assert asked == [("transformers", "m", None, "float32")]
    ((name, server, port, _),) = served
    assert (name, server.name, port) == ("serve_http", "genrank", 8123)


def test_an_interrupt_ends_what_reads_standard_input_at_once(
    asked: list[tuple[object, ...]], served: list[tuple[Any, ...]]
) -> None:
    assert main(["mcp", "--model", "m"]) == 0
    ((name, _, _, on_interrupt),) = served
    assert (name, on_interrupt) == ("serve_stdio", signal.SIG_DFL)


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["--http", "0"], 2, "--http: must be a port within 1..65535, got 0"),
        (["--deadline", "-1"], 2, "deadline: "),
        (["--engine", "http://127.0.0.1:1/v1"], 1, "http://127.0.0.1:1/v1"),
    ],
)
def test_what_is_wrong_ends_it_before_it_serves(
    flags: list[str], status: int, said: str, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    if status == 2:
        request.getfixturevalue("asked")
    assert main(["mcp", *flags]) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
