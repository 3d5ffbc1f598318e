from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from eval import crossval as program
from eval.baseline.__main__ import main as baseline
from eval.crossval import CrossvalConfig, fold_dataset, fold_of, with_dataset
from genrank.data.dataset import Dataset, DatasetQuery
from genrank.data.trec import read_run
from genrank.errors import ConfigError, InputError
from genrank.search.dense import TextEncoder
from genrank.types import Query

UNTRAINED = "[{type: random}, {type: bm25}, {type: blend, name: both, systems: [bm25, random]}]"


def config(**settings: Any) -> CrossvalConfig:
    return CrossvalConfig.model_validate({"dataset": "data", "systems": [{"type": "random"}]} | settings)


def test_every_query_is_tested_once_and_equal_words_stay_together() -> None:
    texts = [f"word {i}" for i in range(200)]
    queries = [DatasetQuery(Query(text, f"q{i}"), "train") for i, text in enumerate([*texts, *map(str.upper, texts)])]
    dataset = Dataset("d", "made up", {}, {}, queries, {}, {})
    folds = [fold_dataset(dataset, config(), number) for number in range(5)]
    assert Counter(query.query.query_id for fold in folds for query in fold.split("test")) == {
        query.query.query_id: 1 for query in queries
    }
    for number, fold in enumerate(folds):
        splits: dict[str, set[str]] = {}
        for query in fold.queries:
            splits.setdefault(query.query.text.lower(), set()).add(query.split)
        assert all(len(found) == 1 for found in splits.values())
        assert {fold_of(query.query.text, 5) for query in fold.split("test")} == {number}
        assert 0.05 < len(fold.split("dev")) / len(queries) < 0.2


def test_an_empty_split_is_told(shop: Dataset) -> None:
    empty = next(number for number in range(5) if all(fold_of(one.query.text, 5) != number for one in shop.queries))
    words = rf"folds: fold {empty} of shop has no .* query \(3 queries in all\); take fewer folds"
    with pytest.raises(InputError, match=words):
        fold_dataset(shop, config(), empty)


def test_a_training_gets_the_folds_dataset_wherever_it_names_it(tmp_path: Path) -> None:
    values = {"datasets": ["~/data/one", "other"], "measured": ["other"], "dev": "~/data/one", "seed": 1}
    found = with_dataset(values, "~/data/one", tmp_path, "c.yaml")
    assert found == values | {"datasets": [str(tmp_path), "other"], "dev": str(tmp_path)}
    assert with_dataset(values, str(Path("~/data/one").expanduser()), tmp_path, "c.yaml") == found
    with pytest.raises(ConfigError, match=r"c\.yaml: does not train on data, the dataset of the cross-validation"):
        with_dataset(values, "data", tmp_path, "c.yaml")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"systems": [{"type": "trec", "name": "t", "path": "p"}]}, "'random'"),
        ({"systems": [{"type": "random"}, {"type": "bm25", "name": "random"}]}, "two systems"),
        ({"systems": [{"type": "blend", "name": "b", "systems": ["x", "y"]}]}, "b needs x, which must come before it"),
        (
            {
                "systems": [
                    {"type": "bm25"},
                    {"type": "blend", "name": "b", "systems": ["bm25", "bm25"], "fit": "train"},
                ]
            },
            "b is fitted on each fold's dev queries, got fit: train",
        ),
        ({"reference": "x"}, "reference: no system 'x'"),
        ({"folds": 1}, "folds"),
    ],
    ids=["run", "names", "order", "fit", "reference", "folds"],
)
def test_wrong_configurations(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config(**settings)


@pytest.fixture
def data(bazaar: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    candidates = {key: dict.fromkeys(ids, 1.0) for key, ids in bazaar.qrels.items()}
    # the 60 queries have 20 texts in all; with more, no fold is empty
    queries = [
        dataclasses.replace(query, query=Query(f"{query.query.text} {i}", query.query.query_id))
        for i, query in enumerate(bazaar.queries)
    ]
    dataclasses.replace(bazaar, queries=queries, candidates=candidates).save("data")
    return tmp_path


def call(*more: str, systems: str = UNTRAINED) -> int:
    Path("c.yaml").write_text(f"dataset: data\nfolds: 3\nsystems: {systems}\n", encoding="utf-8")
    return program.main(["--config", "c.yaml", "--out", "out", "--cache", "cache", *more])


def results() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("out/results.json").read_text(encoding="utf-8"))
    return found


def test_the_folds_are_joined_and_a_blend_has_a_weight_for_each(data: Path) -> None:
    assert call() == 0
    found = results()
    assert (found["counts"]["queries"], found["complete"], found["reference"]) == (60, True, "bm25")
    assert len(found["systems"]["both"]["settings"]["weights"]) == 3
    run = read_run("out/both.trec")
    assert len(run) == 60
    whole = Dataset.load("data")
    assert all(run[key].keys() == set(list(whole.candidates[key])[:20]) for key in run)
    assert [one["system"] for one in found["comparisons"]] == ["random", "both"]
    assert Path("out/report.html").is_file()


def test_what_is_finished_in_all_folds_is_measured(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--system", "bm25", "--fold", "1") == 0
    assert "no system is finished in all folds yet" in capsys.readouterr().err
    assert not Path("out/results.json").exists()
    assert call("--system", "bm25", "--fold", "0", "--fold", "2") == 0
    assert "random is finished in 0 of 3 folds: left out" in capsys.readouterr().err
    assert list(results()["systems"]) == ["bm25"]
    assert call("--system", "random") == 0
    assert list(results()["systems"]) == ["random", "bm25", "both"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--system", "both"], "--system: must be one of random, bm25, got both"),
        (["--fold", "3"], "--fold: must be one of 0, 1, 2, got 3"),
    ],
    ids=["system", "fold"],
)
def test_an_unknown_part_is_told(data: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str) -> None:
    assert call(*more) == 2
    assert words in capsys.readouterr().err


class TestTrainings:
    @pytest.fixture
    def asked(self, data: Path, encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        """The trainings' arguments; they run here, with an encoder without a model."""
        pytest.importorskip("lightgbm")
        for module in ("eval.baseline.training", "genrank.rankers.gbdt"):
            monkeypatch.setattr(f"{module}.Encoder", lambda name: encoder)
        calls: list[list[str]] = []

        def run(arguments: Sequence[str], log: Path) -> int:
            assert arguments[0] == "eval.baseline"
            calls.append(list(arguments[1:]))
            return baseline(arguments[1:])

        monkeypatch.setattr(program, "run_program", run)
        Path("b.yaml").write_text("dataset: data\nrounds: 5\nleaves: 5\nleaf_candidates: 5\n", encoding="utf-8")
        return calls

    def test_each_fold_is_trained_once(self, asked: list[list[str]], bazaar: Dataset) -> None:
        system = "[{type: bm25}, {type: baseline, config: b.yaml}]"
        assert call(systems=system) == 0
        assert len(asked) == 3
        for arguments in asked:
            settings = Path(arguments[2]).read_text(encoding="utf-8")
            (line,) = [line for line in settings.splitlines() if line.startswith("dataset: ")]
            seen = Dataset.load(line.removeprefix("dataset: "))
            assert {query.split for query in seen.queries} == {"train", "dev", "test"}
        assert len(read_run("out/baseline.trec")) == 60
        assert call(systems=system) == 0
        assert len(asked) == 3
        # other options are another training
        assert call("--fold", "0", systems="[{type: baseline, config: b.yaml, options: {rounds: 6}}]") == 0
        assert len(asked) == 4

    def test_a_failed_training_is_told_and_tried_again(
        self, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        works = program.run_program
        monkeypatch.setattr(program, "run_program", lambda *_: 1)
        system = "[{type: baseline, config: b.yaml}]"
        assert call("--fold", "0", systems=system) == 1
        assert "baseline: the training of fold 0 ended with status 1; out/fold-0/baseline-" in capsys.readouterr().err
        monkeypatch.setattr(program, "run_program", works)
        assert call("--fold", "0", systems=system) == 0
        assert len(asked) == 1
