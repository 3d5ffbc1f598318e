from __future__ import annotations

import json

import pytest

from genrank.cli.main import main
from genrank.doctor.check import Check

CHECKS = [
    Check("python", "ok", "CPython 3.12.1"),
    Check("extra cli", "missing", "without rich", "pip install 'genrank[cli]'"),
]
FAILED = Check("model m", "failed", "broken", "genrank models fetch m")


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    """What the checks find."""
    checks = list(CHECKS)
    monkeypatch.setattr("genrank.doctor.examine.examine", lambda **_: checks)
    return checks


def test_what_is_missing_is_shown_with_its_command_and_does_not_fail(
    found: list[Check], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "pip install 'genrank[cli]'" in line]
    assert line.index("pip install") < line.index("without rich"), "what was found may be longer than the terminal"
    assert "1 ok, 1 missing" in out


def test_what_failed_gives_status_1(found: list[Check], capsys: pytest.CaptureFixture[str]) -> None:
    found.append(FAILED)
    assert main(["doctor"]) == 1
    assert "1 ok, 1 missing, 1 failed" in capsys.readouterr().out


def test_json_is_for_programs(found: list[Check], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is True
    assert said["checks"][1] == {
        "name": "extra cli",
        "state": "missing",
        "found": "without rich",
        "fix": "pip install 'genrank[cli]'",
    }
    found.append(FAILED)
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_options_reach_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}
    monkeypatch.setattr("genrank.doctor.examine.examine", lambda **options: asked.update(options) or [])
    monkeypatch.setenv("GENRANK_API_KEY", "secret")
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    assert main(["doctor", "--deep", "--engine", "http://host:8000/v1"]) == 0
    environment = asked.pop("environment")
    assert asked == {"server": "http://host:8000/v1", "deep": True}
    assert "GENRANK_API_KEY" in environment
    assert "TRANSFORMERS_VERBOSITY" not in environment  # the command itself sets it


def test_what_is_no_address_is_a_wrong_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--engine", "vllm"]) == 2
    assert "must be an address" in capsys.readouterr().err


def test_a_real_examination_shows_no_value_of_a_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GENRANK_API_KEYS", "very-secret-key")
    main(["doctor", "--json"])
    out = capsys.readouterr().out
    assert "GENRANK_API_KEYS" in out
    assert "very-secret-key" not in out
