from __future__ import annotations

from pathlib import Path

import pytest

from genrank.errors import ConfigError
from genrank.words.template import AspectPrompt, WritingPrompt, load_prompt

PROMPTS = Path(__file__).resolve().parents[3] / "prompts" / "words"


def test_every_shipped_prompt_loads_and_is_named_like_its_file() -> None:
    names = {path.stem for path in PROMPTS.glob("*.toml")}
    assert names == {"summary", "title", "aspects"}
    assert load_prompt("aspects", AspectPrompt).name == "aspects"
    for name in names - {"aspects"}:
        assert load_prompt(name, WritingPrompt).name == name


def test_examples_come_with_and_without_a_history_in_both_languages() -> None:
    for name in ("summary", "title"):
        prompt = load_prompt(name, WritingPrompt)
        for spoken in ("en", "zh", "other"):
            assert {bool(example.history) for example in prompt.form(spoken).examples} == {True, False}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('answer = "none"', 'answer = "neutral"', "'neutral' is no answer"),
        ('negative = "negative"', 'negative = "positive"', "must differ"),
        ("{aspect}? One", "Which? One", "question must hold the placeholders"),
        ('answer = "packaging"', 'answer = "taste"', "'taste' is neither one of its aspects"),
        ("version = 1", "version = one", "not TOML"),
        ("version = 1", 'version = "x"', "version"),
    ],
)
def test_a_broken_prompt_is_named(old: str, new: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text((PROMPTS / "aspects.toml").read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match=says):
        load_prompt(file, AspectPrompt)


def test_an_unknown_prompt_is_named() -> None:
    with pytest.raises(ConfigError, match=r"known are \['aspects', 'summary', 'title'\]"):
        load_prompt("poem", WritingPrompt)
    with pytest.raises(ConfigError, match="cannot read"):
        load_prompt("nowhere.toml", WritingPrompt)
