from __future__ import annotations

import os
from typing import Any

import pytest

from genrank.cli.main import main
from genrank.errors import MissingExtraError
from genrank.models.registry import DEFAULT_MODEL


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command was made from."""
    seen: dict[str, Any] = {}

    def command(model: str, **options: Any) -> list[str]:
        seen.update(model=model, **options)
        return ["/python", "serve", model, "{% x %}", *options["flags"]]

    monkeypatch.setattr("genrank.remote.launch.server_command", command)
    return seen


def test_flags_that_genrank_does_not_know_are_passed_on_in_their_order(
    given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--tensor-parallel-size", "2", "--port=9000", "-dp", "4", "--mode", "x", "--quantization", "awq"]
    arguments = ["vllm", "--print", *flags[:3], "--model", "m", "--adapter", "a/shop", *flags[3:]]
    assert main(arguments) == 0
    assert given == {"model": "m", "adapter": "a/shop", "trust_remote_code": False, "flags": flags}
    out, err = capsys.readouterr()
    assert out == f"/python serve m '{{% x %}}' {' '.join(flags)}\n"
    assert err == ""


def test_the_command_is_shown_and_takes_the_place_of_this_process(
    given: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []

    def execv(*call: Any) -> int:
        started.append(call)
        return 0

    monkeypatch.setattr(os, "execv", execv)
    assert main(["vllm", "--trust-remote-code"]) == 0
    command = ["/python", "serve", DEFAULT_MODEL, "{% x %}"]
    assert started == [("/python", command)]
    assert given["trust_remote_code"] is True
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"/python serve {DEFAULT_MODEL} '{{% x %}}'\n")


def test_without_vllm_it_ends_with_1_and_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: Any, **__: Any) -> list[str]:
        raise MissingExtraError("vllm", "vllm")

    monkeypatch.setattr("genrank.remote.launch.server_command", missing)
    assert main(["vllm"]) == 1
    assert "pip install 'genrank[vllm]'" in capsys.readouterr().err


def test_other_commands_pass_nothing_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["models", "list", "--tensor-parallel-size", "2"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --tensor-parallel-size 2" in capsys.readouterr().err
