import json
from pathlib import Path

import pytest

from eval import run as program
from eval.config import RunConfig
from eval.trec_eval import MAX_GAIN, whole_gains
from genrank.data.dataset import Dataset, Grade
from genrank.data.trec import read_qrels, read_run
from genrank.experiment.datasets import load_dataset
from tests.collections_rig import write_beir

pytrec_eval = pytest.importorskip("pytrec_eval")

SYSTEMS = [{"type": "random"}, {"type": "first-stage"}, {"type": "bm25"}]


def trec_eval(qrels: Path, run: Path, measure: str) -> dict[str, float]:
    """What trec_eval computes for each query."""
    evaluator = pytrec_eval.RelevanceEvaluator(read_qrels(qrels), {measure})
    found = evaluator.evaluate(read_run(run))
    return {query: values[measure.replace(".", "_")] for query, values in found.items()}


@pytest.mark.parametrize("name", ["sample-shop", "bazaar", "beir"])
def test_trec_eval_finds_the_same_figures(name: str, bazaar: Dataset, tmp_path: Path) -> None:
    """With gains that are `2^grade - 1`, that are not whole numbers, and that are the grades."""
    folder = tmp_path / "data"
    if name == "bazaar":
        bazaar.save(folder)
    elif name == "beir":
        write_beir(folder)
    place = name if name == "sample-shop" else str(folder)
    config = RunConfig.model_validate({"dataset": place, "split": "test", "max_candidates": 7, "systems": SYSTEMS})
    out = tmp_path / "out"
    results = program.run(config, config.load_dataset(), out)
    for system, found in results["systems"].items():
        by_query = json.loads((out / f"{system}.queries.json").read_text(encoding="utf-8"))
        ours = dict(zip(by_query["queries"], by_query["metrics"]["nDCG@10"], strict=True))
        theirs = trec_eval(out / "qrels" / "gains.trec", out / f"{system}.trec", "ndcg_cut.10")
        assert theirs == pytest.approx(ours, abs=1e-9)
        assert sum(theirs.values()) / len(theirs) == pytest.approx(found["metrics"]["nDCG@10"])
        graded = trec_eval(out / "qrels" / "grades.trec", out / f"{system}.trec", "ndcg_cut.10")
        assert all(graded[query] <= 1 for query in graded)
        if name == "bazaar":
            assert graded != pytest.approx(ours)
    threshold = results["dataset"]["trec_gains"][str(results["dataset"]["relevant"])]
    evaluator = pytrec_eval.RelevanceEvaluator(
        read_qrels(out / "qrels" / "gains.trec"), {"map", "recip_rank"}, relevance_level=threshold
    )
    theirs = evaluator.evaluate(read_run(out / "random.trec"))
    for measure, metric in (("map", "MAP"), ("recip_rank", "MRR")):
        mean = sum(values[measure] for values in theirs.values()) / len(theirs)
        assert mean == pytest.approx(results["systems"]["random"]["metrics"][metric])


def test_the_files_hold_candidates_and_judgements(tmp_path: Path) -> None:
    folder = str(write_beir(tmp_path / "lamps"))
    config = RunConfig.model_validate({"dataset": folder, "max_candidates": 2, "systems": SYSTEMS})
    program.run(config, load_dataset(folder), tmp_path / "out")
    assert read_qrels(tmp_path / "out" / "qrels" / "gains.trec")["q1"] == {"d1": 2, "d2": 1}
    assert read_qrels(tmp_path / "out" / "qrels" / "grades.trec")["q1"] == {"d1": 2, "d2": 1, "d3": 0}


@pytest.mark.parametrize(
    ("gains", "whole"),
    [
        ([0, 1, 3, 7], [0, 1, 3, 7]),
        ([0, 0.01, 0.1, 1], [0, 1, 10, 100]),
        ([0, 0.5, 1], [0, 5, 10]),
        ([0, 0.26, 1.5], [0, 26, 150]),
        ([0, 2**0.5 - 1, 1], [0, 41421, MAX_GAIN]),
        ([0, 1e-12, 1], [0, 1, MAX_GAIN]),
        ([0, 1, 2**20], [0, 1, MAX_GAIN]),
        ([0], [0]),
    ],
)
def test_whole_gains(gains: list[float], whole: list[int]) -> None:
    assert list(whole_gains({grade: Grade("", gain) for grade, gain in enumerate(gains)}).values()) == whole
