from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("limits")

from genrank.cli.main import main
from genrank.cli.serve import _FLAGS
from genrank.server.config import Config


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GENRANK_API_KEYS", "GENRANK_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)


def test_the_settings_can_be_checked_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GENRANK_API_KEYS", "first-key-1,second-key-2")
    file = tmp_path / "serve.toml"
    file.write_text('[server]\nhost = "0.0.0.0"\n')
    assert main(["serve", "--config", str(file), "--port", "0", "--check"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", "the settings are right; keys: 2\n")


def test_a_wrong_call_lists_all_problems(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "-1", "--engine", "magic", "--rate-limit", "fast", "--check"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("genrank: 3 problems in the configuration:\n")
    for flag in ("--port", "--engine", "--rate-limit"):
        assert f"\n  {flag}: " in err


def test_others_are_not_served_without_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--host", "0.0.0.0", "--check"]) == 2
    assert "set GENRANK_API_KEYS or auth.keys_file" in capsys.readouterr().err
    assert main(["serve", "--host", "0.0.0.0", "--open", "--check"]) == 0


def test_flags_reach_the_server(asked: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[Any, Config, tuple[str, ...]]] = []
    monkeypatch.setattr("genrank.server.run.serve", lambda *call: served.append(call))
    monkeypatch.setenv("GENRANK_API_KEYS", "key-of-shop")
    call = ["serve", "--model", "m", "--decoding", "inline", "--name", "shop", "--deadline", "2", "--port", "1234"]
    assert main(call) == 0
    ((ranker, config, keys),) = served
    assert asked == [("transformers", "m", None, "auto")]
    assert ranker.decoding == "inline"
    assert (config.model.name, config.server.deadline, config.server.port, keys) == (
        "shop",
        2.0,
        1234,
        ("key-of-shop",),
    )


def test_every_flag_is_a_setting() -> None:
    for place in _FLAGS.values():
        section, key = place.split(".")
        assert key in type(getattr(Config(), section)).model_fields


@pytest.mark.parametrize(("flags", "there"), [([], True), (["--no-playground"], False), (["--playground"], True)])
def test_the_playground_can_be_turned_off(
    asked: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch, flags: list[str], there: bool
) -> None:
    served: list[tuple[Any, Config, tuple[str, ...]]] = []
    monkeypatch.setattr("genrank.server.run.serve", lambda *call: served.append(call))
    assert main(["serve", "--model", "m", *flags]) == 0
    assert served[0][1].server.has_playground is there
