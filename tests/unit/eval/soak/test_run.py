"""A short soak: every fault once, with a real gateway and a server without a model."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from eval.soak.__main__ import main
from eval.soak.answers import Broken
from eval.soak.page import report
from eval.soak.run import FOR_A_MODEL, Seen, Settings, run_soak
from genrank.errors import InputError

NEEDED = ("cachetools", "fastapi", "limits", "prometheus_client", "tokenizers", "transformers", "uvicorn")


@pytest.mark.timeout(900)  # it takes seconds, but the gateway starts slowly where the processors are busy
@pytest.mark.skipif(not all(map(find_spec, NEEDED)), reason="needs pip install 'genrank[gateway]'")
def test_a_short_soak_with_every_fault_breaks_no_promise(tmp_path: Path) -> None:
    settings = Settings(
        minutes=0.01,
        clients=4,
        deadline=4.0,
        engine="stand-in",
        rest=0.3,
        stall=4.5,
        spell=1.0,
        cool_down=0.5,
        least_model=0.05,
    )
    found = report(run_soak(settings, tmp_path), "")
    assert found["broken"] == {}
    assert {"stall", "malformed", "refuse", "kill", "crowd"} <= found["faults"].keys()
    assert {"model", "status 429", "status 408"} <= found["outcomes"].keys()
    assert {"steady", "crowd", "slow", "stuck", "vanishing"} <= found["clients"].keys()
    assert set(found["recovery_s"]) == {"stall", "malformed", "refuse", "kill", "crowd"}
    assert not json.dumps(found).count("NaN")


def run(monkeypatch: pytest.MonkeyPatch, out: Path, seen: Seen, *arguments: str) -> int:
    def stand_in(settings: Settings, folder: Path) -> Seen:
        folder.mkdir()
        seen.settings = settings
        return seen

    monkeypatch.setattr("eval.soak.__main__.run_soak", stand_in)
    return main(["--out", str(out), *arguments])


def test_the_program_writes_its_report_and_says_so_with_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = Seen(Settings())
    assert run(monkeypatch, tmp_path / "good", seen, "--minutes", "3", "--engine", "http://e:1/v1") == 0
    assert (seen.settings.minutes, seen.settings.engine) == (3.0, "http://e:1/v1")
    written: dict[str, Any] = json.loads((tmp_path / "good/soak.json").read_text(encoding="utf-8"))
    assert written["command"] == f"python -m eval.soak --out {tmp_path}/good --minutes 3 --engine http://e:1/v1"
    assert capsys.readouterr().out == (tmp_path / "good/soak.md").read_text(encoding="utf-8")
    seen.tally.break_(Broken("answered", "no answer"))
    assert run(monkeypatch, tmp_path / "bad", seen) == 1
    assert "promises were broken" in capsys.readouterr().out


def test_a_model_gets_less_to_do_than_the_stand_in_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(Settings())

    def load(*arguments: str) -> dict[str, Any]:
        run(monkeypatch, tmp_path / str(len(list(tmp_path.iterdir()))), seen, *arguments)
        return {name: getattr(seen.settings, name) for name in FOR_A_MODEL}

    usual = {name: getattr(Settings, name) for name in FOR_A_MODEL}
    assert load() == load("--engine", "http://e:1/v1") == FOR_A_MODEL
    assert load("--engine", "stand-in") == usual
    given = ("--clients", "5", "--candidates", "9", "--pause", "0.5")
    assert load(*given) == load(*given, "--engine", "stand-in") == {"clients": 5, "candidates": 9, "pause": 0.5}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--minutes", "0"],
        ["--clients", "0"],
        ["--engine", "ollama"],
        ["--candidates", "1"],
        ["--pause", "-1"],
        ["--least-model", "1.1"],
    ],
)
def test_wrong_settings_are_a_wrong_call(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {arguments[0][2:].replace('-', '_')}: must be")
    with pytest.raises(InputError):
        Settings(deadline=float("nan"))
