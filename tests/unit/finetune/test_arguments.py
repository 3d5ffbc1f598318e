from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune.windows import WindowOptions
from genrank.errors import ConfigError, InputError

pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")

from finetune.arguments import RankingArguments, parse


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("datasets", [], "must not be empty"),
        ("forms", [], "must not be empty"),
        (
            "forms",
            ["inline", "pairwise"],
            "must be of pointwise, inline, listwise, understanding, each once, got ['inline', 'pairwise']",
        ),
        ("forms", ["inline", "inline"], "each once"),
        ("ranking_weight", -1.0, "must not be negative, got -1.0"),
        ("text_weight", float("nan"), "must not be negative, got nan"),
        ("languages", ["en", "french"], "must be of en, zh, other, got 'french'"),
        ("share", 0.0, "must be above 0 and at most 1, got 0.0"),
        ("share", 1.5, "must be above 0 and at most 1, got 1.5"),
        ("reasons", 2.0, "must be a chance, 0 to 1, got 2.0"),
        ("max_tokens", 0, "must be at least 1, got 0"),
        ("dev_queries", 0, "must be at least 1, got 0"),
        ("lora_top_layers", 0, "must be at least 1, got 0"),
    ],
)
def test_a_wrong_option_is_named_with_its_value(option: str, value: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        RankingArguments(**{option: value})
    assert caught.value.field == option
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"ranking_weight": 0.0, "text_weight": 0.0}, "text_weight"),
        ({"ranking_weight": 0.0, "forms": ["pointwise", "inline"]}, "ranking_weight"),
        ({"text_weight": 0.0, "forms": ["pointwise", "understanding"]}, "text_weight"),
        ({"reasons": 0.5, "forms": ["understanding"]}, "reasons"),
    ],
)
def test_something_must_be_learned(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        RankingArguments(**options)
    assert caught.value.field == field


def test_windows_are_drawn_as_the_options_say() -> None:
    found = RankingArguments(windows_per_query=3, least_candidates=5, most_candidates=9, drop_history=0.5).windows()
    assert found == WindowOptions(per_query=3, least=5, most=9, drop_history=0.5)
    with pytest.raises(InputError, match=r"^least_candidates: must be at least 2, got 1$"):
        RankingArguments(least_candidates=1).windows()
    with pytest.raises(InputError, match=r"^query_noise: must be a chance, 0 to 1, got 3$"):
        RankingArguments(query_noise=3).windows()


class TestParse:
    @pytest.fixture(autouse=True)
    def trl(self) -> None:
        pytest.importorskip("trl", reason="trl is not installed: pip install 'genrank[train]'")

    def test_the_command_line_goes_before_the_file(self, tmp_path: Path) -> None:
        file = tmp_path / "my.yaml"
        file.write_text("forms: [inline]\nlora_r: 4\nlearning_rate: 1.0e-3\nuse_cpu: true\nbf16: false\n")
        ranking, training, model = parse(["--config", str(file), "--lora_r", "8"], "prog")
        assert (ranking.forms, model.lora_r, training.learning_rate) == (["inline"], 8, 1e-3)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("no_such_option: 3\n", "no_such_option"),
            ("- a\n", "must contain a YAML mapping"),
            ("a: [", "my.yaml:1: not valid YAML: "),
            ("seed: 1\nmax_tokens: 2\nseed: 3\n", "'seed' is given twice, first on line 1"),
        ],
    )
    def test_a_wrong_file_is_a_wrong_call(self, text: str, words: str, tmp_path: Path) -> None:
        file = tmp_path / "my.yaml"
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            parse(["--config", str(file)], "prog")
        assert words in str(caught.value)

    def test_a_missing_file_is_named(self) -> None:
        with pytest.raises(ConfigError, match=r"no-such\.yaml"):
            parse(["--config", "no-such.yaml"], "prog")

    def test_a_wrong_option_of_a_file_is_named(self, tmp_path: Path) -> None:
        file = tmp_path / "my.yaml"
        file.write_text("share: 7\n")
        with pytest.raises(InputError, match=r"^share: must be above 0"):
            parse(["--config", str(file)], "prog")
