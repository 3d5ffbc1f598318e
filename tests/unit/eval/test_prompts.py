from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval import prompts as program
from eval.config import RunConfig
from eval.prompts import PromptsConfig
from eval.systems import SystemResult
from genrank.data.dataset import Dataset, DatasetQuery, Grade
from genrank.data.trec import Run
from genrank.errors import ConfigError, EngineError
from genrank.experiment.config import load_config
from genrank.experiment.systems import GenrankSystem
from genrank.prompting.template import load_template, template_names
from genrank.reranker import Reranker
from genrank.testing import OracleEngine
from genrank.types import Listing, Query, Request

ROOT = Path(__file__).resolve().parents[3]
QUERIES = 12


def label(name: str) -> str:
    return f"{name}@{load_template(name).version}"


INLINE = label("inline")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A shop with 12 queries of train, 2 of dev and 1 of test, four candidates each, one of which is right."""
    listings = {f"l{i}": Listing(f"l{i}", f"listing {i}") for i in range(4)}
    splits = ["train"] * QUERIES + ["dev"] * 2 + ["test"]
    queries = [DatasetQuery(Query(f"query {i}", f"q{i:02}"), split) for i, split in enumerate(splits)]
    grades = {0: Grade("no", 0.0), 1: Grade("yes", 1.0)}
    qrels = {query.query.query_id: {"l0": 1, "l1": 0, "l2": 0, "l3": 0} for query in queries}
    Dataset("shop", "made up", grades, listings, queries, qrels).save(tmp_path / "shop")
    return tmp_path / "shop"


Asked = list[tuple[str | None, str | None, str, int]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What was ranked: prompt, decoding, model and number of queries. Models are doubles named by what they do."""
    calls: Asked = []
    engines: dict[str, Callable[[], OracleEngine]] = {
        "right": lambda: OracleEngine({"l0": 5.0}),
        "as-right": lambda: OracleEngine({"l0": 5.0}),
        "wrong": lambda: OracleEngine({"l0": -5.0}),
    }

    def run_system(
        system: GenrankSystem,
        config: RunConfig,
        dataset: Dataset,
        requests: Sequence[Request],
        cache: Path | None,
        asked: str,
    ) -> SystemResult:
        if system.model not in engines:
            raise EngineError(f"{system.model} cannot be run")
        reranker = Reranker(
            engine=engines[system.model](),
            prompt=system.prompt,
            decoding=system.decoding,
            window=system.window,
            stride=system.stride,
            passes=system.passes,
            max_prompt_tokens=system.max_prompt_tokens,
        )
        rankings = reranker.rerank_batch(requests)
        calls.append((system.prompt, system.decoding, system.model, len(requests)))
        run: Run = {}
        for ranking in rankings:
            run |= ranking.to_run()
        return SystemResult(run, 0.5 * len(requests), 0.0, tuple(rankings))

    monkeypatch.setattr(program, "run_system", run_system)
    return calls


def config(folder: Path, **change: Any) -> PromptsConfig:
    values = {"dataset": str(folder), "templates": ["inline"], "decodings": ["inline"], "models": ["right", "wrong"]}
    return PromptsConfig.model_validate(values | change)


def test_the_best_is_marked_where_it_beats_every_other(folder: Path, asked: Asked) -> None:
    results = program.run(config(folder))
    assert [(cell["model"], cell["value"]) for cell in results["cells"]] == [
        ("right", 1.0),
        ("wrong", pytest.approx(1 / math.log2(1 + 4))),  # the right one stands last
    ]
    assert results["best"] == {"cell": f"{INLINE} inline right", "significant": True, "not_told_apart": []}
    behind = results["cells"][1]["behind_best"]
    assert (behind["wins"], behind["losses"]) == (QUERIES + 2, 0)
    assert behind["difference"] == pytest.approx(1 - 1 / math.log2(1 + 4))
    assert behind["p_holm"] < 0.05
    assert "is significantly better than every other one" in program.verdict(results)
    assert f"{INLINE} * |" in program.markdown(results)


def test_no_winner_where_another_cannot_be_told_apart(folder: Path, asked: Asked) -> None:
    results = program.run(config(folder, models=["wrong", "right", "as-right"]))
    assert results["best"] == {
        "cell": f"{INLINE} inline right",
        "significant": False,
        "not_told_apart": [f"{INLINE} inline as-right"],
    }
    words = program.verdict(results)
    assert words.startswith("No significant winner")
    assert f"distinguished from 1 of 2: {INLINE} inline as-right." in words
    assert " * |" not in program.markdown(results)


def test_one_cell_is_no_winner(folder: Path, asked: Asked) -> None:
    results = program.run(config(folder, models=["right"]))
    assert results["best"]["significant"] is False
    assert program.verdict(results) == f"Only {INLINE} inline right was measured."


def test_one_query_decides_nothing(folder: Path, asked: Asked) -> None:
    results = program.run(config(folder, limit=1))
    assert results["best"]["significant"] is False
    assert results["cells"][0]["low"] == results["cells"][0]["high"] == 1.0


def test_costs_are_for_one_query(folder: Path, asked: Asked) -> None:
    change = {"templates": ["listwise"], "decodings": ["first-token", "listwise"], "models": ["right"]}
    cells = {cell["decoding"]: cell for cell in program.run(config(folder, **change))["cells"]}
    assert cells["first-token"]["seconds"] == 0.5
    assert cells["first-token"]["completion_tokens"] == 0
    assert cells["listwise"]["completion_tokens"] == 4  # as the double counts
    assert cells["listwise"]["prompt_tokens"] == cells["first-token"]["prompt_tokens"] > 50
    assert cells["listwise"]["outcomes"] == {"model": QUERIES + 2, "repaired": 0, "fallback": 0}


def test_test_queries_are_taken_only_where_they_are_asked_for(folder: Path, asked: Asked) -> None:
    results = program.run(config(folder, models=["right"]))
    assert "q14" not in results["queries"]
    assert len(results["queries"]) == QUERIES + 2
    assert program.run(config(folder, models=["right"], splits=["test"]))["queries"] == ["q14"]


def test_what_does_not_fit_is_skipped_with_the_reason(folder: Path, asked: Asked) -> None:
    change = {"templates": "all", "decodings": ["inline", "listwise"], "models": ["right"], "window": 100}
    results = program.run(config(folder, **change))
    skipped = {(cell["template"], cell["decoding"]): cell["why"] for cell in results["skipped"]}
    assert len(results["cells"]) + len(skipped) == 2 * len(template_names())
    assert skipped[label("listwise"), "inline"] == "asks no question"
    assert skipped[label("inline-bare"), "listwise"] == "names no candidates"
    assert (
        skipped[label("listwise-numbers"), "listwise"] == "window: this tokenizer has 99 one-token identifiers, got 100"
    )
    assert f"listwise right: {label('listwise-numbers')}" in program.markdown(results)
    assert {decoding for _, decoding, _, _ in asked} == {"inline", "listwise"}


def test_pointwise_has_no_windows_and_is_measured_beside_the_others(folder: Path, asked: Asked) -> None:
    change = {"templates": ["pointwise", "inline"], "models": ["right"]}
    cells = program.run(PromptsConfig.model_validate({"dataset": str(folder)} | change))["cells"]
    assert {(cell["template"], cell["decoding"]) for cell in cells} == {
        (label("pointwise"), "pointwise"),
        (INLINE, "inline"),
    }


def test_nothing_that_fits_is_an_error(folder: Path, asked: Asked) -> None:
    with pytest.raises(ConfigError, match="nothing could be measured; the last reason: asks no question"):
        program.run(config(folder, templates=["listwise"]))
    with pytest.raises(ConfigError, match="nothing could be measured; the last reason: stride: must lie within"):
        program.run(config(folder, stride=20))


def test_a_template_of_ones_own(folder: Path, asked: Asked, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('name = "mine"\nbase = "inline"\nversion = 7\n', encoding="utf-8")
    results = program.run(config(folder, templates=[str(mine), "inline"], models=["right"]))
    assert {cell["template"] for cell in results["cells"]} == {"mine@7", INLINE}
    assert len({cell["hash"] for cell in results["cells"]}) == 2
    mine.write_text('name = "inline"\nbase = "inline"\nsystem = "Judge."\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="two have the same name and version"):
        program.run(config(folder, templates=[str(mine), "inline"]))


def test_the_program_writes_json_markdown_and_a_table(
    folder: Path, asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(config(folder).model_dump(mode="json")), encoding="utf-8")
    assert program.main(["--config", str(path), "--out", str(tmp_path / "out"), "--no-cache"]) == 0
    out, err = capsys.readouterr()
    results = json.loads((tmp_path / "out" / "prompts.json").read_text(encoding="utf-8"))
    page = (tmp_path / "out" / "prompts.md").read_text(encoding="utf-8")
    assert results["metric"] == "nDCG@10"
    assert 0 < results["random_floor"]["mean"] < 1
    for words in (INLINE, "1.0000", "is significantly better", "14 queries of shop (dev, train)"):
        assert words in out
        assert words in page
    assert f"1/2 {INLINE} inline right ..." in err
    assert f"`python -m eval.prompts --config {path}`" in page


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ("templates: [inlin]", 2, "no prompt template 'inlin'; known are"),
        ("splits: [tset]", 2, "no query of shop has split 'tset'"),
        ("decodings: [pairwise]", 2, "decodings[0]"),
        ("models: []", 2, "models"),
        ("modles: [x]", 2, "did you mean models?"),
        ("models: [broken]", 1, "broken cannot be run"),
    ],
)
def test_what_is_wrong_is_named(
    change: str, status: int, words: str, folder: Path, asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"dataset": str(folder), "models": ["right"]} | yaml.safe_load(change)
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert program.main(["--config", str(path), "--out", str(tmp_path / "out"), "--no-cache"]) == status
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(ROOT.glob("eval/configs/prompts/*.yaml")), ids=lambda path: path.name)
def test_the_configurations_load_and_say_how_they_are_started(path: Path) -> None:
    assert "test" not in load_config(path, PromptsConfig).splits
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# python -m eval.prompts --config {path.relative_to(ROOT)}"
