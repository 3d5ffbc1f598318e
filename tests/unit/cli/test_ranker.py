from __future__ import annotations

from pathlib import Path

import pytest

from genrank.batch.settings import Settings
from genrank.cli.main import parse
from genrank.cli.ranker import settings_of


@pytest.mark.parametrize("command", [["rerank", "in.jsonl"], ["batch", "in.jsonl", "out.jsonl"]])
def test_both_commands_make_the_same_settings(command: list[str]) -> None:
    given = ["--model", "m", "--window", "5", "--blend", "0.5", "--then", "inline"]
    made = Settings(model="m", window=5, blend=0.5, then="inline")
    assert settings_of(parse([*command, *given])) == made
    assert settings_of(parse([*command, "--blend", "off"])) == Settings(blend=False)


def test_a_link_to_an_adapter_is_followed_once(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "current").symlink_to("v1")
    settings = settings_of(parse(["rerank", "in.jsonl", "--adapter", str(tmp_path / "current")]))
    assert settings.adapter == str(tmp_path / "v1")
