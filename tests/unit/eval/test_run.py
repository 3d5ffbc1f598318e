import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from eval import run as program
from eval import systems
from eval.cache import StoredResult
from eval.config import RunConfig, System
from eval.systems import SystemResult
from genrank.data.dataset import Dataset
from genrank.data.trec import read_run, write_run
from genrank.errors import EngineError, InputError
from genrank.types import Provenance, Ranking

CONFIG = """dataset: {folder}
systems:
  - {{type: random}}
  - {{type: bm25}}
"""


def write_config(tmp_path: Path, shop: Dataset, more: str = "") -> Path:
    shop.save(tmp_path / "shop")
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(folder=tmp_path / "shop") + more, encoding="utf-8")
    return path


def test_measures(shop: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path, shop)
    assert (
        program.main(["--config", str(path), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]) == 0
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["complete"] is True
    # q1 comes as l1, l3, l2 ("red" is the rarer word), q2 in its ideal order
    first = (3 / math.log2(1 + 1) + 1 / math.log2(3 + 1)) / (3 / math.log2(1 + 1) + 1 / math.log2(2 + 1))
    bm25 = results["systems"]["bm25"]
    assert {name: bm25["metrics"][name] for name in ("nDCG@10", "MRR")} == pytest.approx(
        {"nDCG@10": (first + 1) / 2, "MRR": 1.0}
    )
    low, high = bm25["intervals"]["nDCG@10"]
    assert (low, high) == pytest.approx((first, 1))
    assert results["metrics"] == list(bm25["metrics"])
    assert bm25["slices"]["history"]["without"]["mean"] == pytest.approx((first + 1) / 2)
    assert results["slices"]["query length"] == {"1 word": 1, "2 words": 1}
    assert len(bm25["order"]["mean_rank_by_place"]) == 3
    by_query = json.loads((tmp_path / "out" / "bm25.queries.json").read_text(encoding="utf-8"))
    assert by_query["queries"] == ["q1", "q2"]
    assert by_query["metrics"]["nDCG@10"] == pytest.approx([first, 1])
    # BM25 is the first system that is not random
    assert [(one["system"], one["reference"]) for one in results["comparisons"]] == [("random", "bm25")]
    assert results["counts"]["queries"] == 2
    assert results["counts"]["candidates"] == 6
    assert results["counts"]["unjudged"] == 0
    assert results["dataset"]["gains"] == {"0": 0.0, "1": 1.0, "2": 3.0}
    assert results["settings"]["seed"] == 0
    assert results["versions"]["ranx"]
    assert results["hardware"]
    assert 0 < results["random_floor"]["MRR"]["mean"] < 1
    assert list(read_run(tmp_path / "out" / "bm25.trec")["q2"]) == ["l3", "l4", "l2"]
    out, err = capsys.readouterr()
    assert "random, expected" in out
    assert "gain by grade 0: 0, 1: 1, 2: 3" in out
    assert "seed 0" in out
    assert "bm25 ..." in err
    assert "random_floor" in results
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        *("bm25.trec", "random.trec", "bm25.queries.json", "random.queries.json"),
        *("results.json", "report.html", "report.md", "report.json", "qrels"),
    }


def test_an_unlisted_query_is_no_easier_query(shop: Dataset) -> None:
    cut = dataclasses.replace(shop, candidates={"q1": {"l1": 1.0}})
    with pytest.raises(InputError, match="q2 has no line"):
        program.make_requests(config("d"), cut)


def config(dataset: str, seed: int = 0, limit: int | None = None) -> RunConfig:
    values = {"dataset": dataset, "seed": seed, "limit": limit, "systems": [{"type": "random"}]}
    return RunConfig.model_validate(values)


def test_only_queries_with_a_gain(shop: Dataset, tmp_path: Path) -> None:
    poor = dataclasses.replace(
        shop,
        qrels=shop.qrels | {"q1": {"l1": 0, "l2": 0}},
        candidates={"q1": {"l1": 2.0, "l2": 1.0}, "q2": {"l2": 2.0, "l3": 1.0}},
    )
    all_of_them, some = (
        RunConfig.model_validate({"dataset": "d", "with_gain": wanted, "systems": [{"type": "random"}]})
        for wanted in (False, True)
    )
    assert [r.query.query_id for r in program.make_requests(all_of_them, poor)] == ["q1", "q2"]
    assert [r.query.query_id for r in program.make_requests(some, poor)] == ["q2"]
    counts = program.run(all_of_them, poor, tmp_path / "out")["counts"]
    assert (counts["queries_without_gain"], counts["queries"]) == (1, 2)
    hopeless = dataclasses.replace(poor, qrels={"q1": {"l1": 0}})
    with pytest.raises(InputError, match="with_gain: no query has a candidate with a gain"):
        program.make_requests(some, hopeless)
    # measured all the same, it is 0 in any order
    results = program.run(all_of_them, hopeless, tmp_path / "out")
    assert set(results["systems"]["random"]["metrics"].values()) == {0.0}
    assert results["counts"]["unjudged"] == 3


def test_all_splits_at_once(shop: Dataset) -> None:
    scored = dataclasses.replace(shop, candidates={key: dict.fromkeys(ids, 1.0) for key, ids in shop.qrels.items()})
    every = config("d").model_copy(update={"split": "all"})
    assert [request.query.query_id for request in program.make_requests(every, scored)] == ["q1", "q2", "q3"]


def test_what_a_run_from_elsewhere_lacks_is_said(
    shop: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "run", {"q1": {"l3": 2.0, "odd": 1.0}})
    path = write_config(tmp_path, shop, f"  - {{type: trec, name: theirs, path: {tmp_path / 'run'}}}\n")
    assert program.main(["--config", str(path), "--out", str(tmp_path / "out"), "--no-cache"]) == 0
    assert "theirs: 1 missing queries, 1 unknown listings, 2 missing listings" in capsys.readouterr().err
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["systems"]["theirs"]["notes"]["missing_listings"] == 2
    assert r"counted.missing\_listings = 2" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_clicks(shop: Dataset, tmp_path: Path) -> None:
    shop = dataclasses.replace(shop, candidates={key: dict.fromkeys(ids, 1.0) for key, ids in shop.qrels.items()})
    values = {"dataset": "d", "clicks": {"eta": 0}, "systems": [{"type": "first-stage"}]}
    found = program.run(RunConfig.model_validate(values), shop, tmp_path)["systems"]["first-stage"]["clicks"]
    # a click at rank 1 of q1, at ranks 2 and 3 of q2; nobody looks less at a lower rank, so each weighs 1
    assert found["ips"]["value"] == pytest.approx((1 + 1 / math.log2(2 + 1) + 1 / math.log2(3 + 1)) / 2)
    assert found["auc"]["grouped"] == pytest.approx((1 + 0) / 2)
    assert found["auc"]["overall"] is None
    for one in found["interleaving_with_first_stage"].values():  # with itself
        assert one["share"] == pytest.approx(0.5, abs=0.2)


def test_a_blend_is_fitted_on_other_queries(shop: Dataset, tmp_path: Path) -> None:
    blend = "  - {type: blend, name: both, systems: [bm25, random], fit: train}\n"
    path = write_config(tmp_path, shop, blend)
    assert program.main(["--config", str(path), "--out", str(tmp_path / "out"), "--no-cache"]) == 0
    both = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["systems"]["both"]
    # the one query of train has one candidate: each weight is as good
    assert both["settings"]["weight"] == 0.5
    assert set(read_run(tmp_path / "out" / "both.trec")) == {"q1", "q2"}


def test_blends_of_the_same_parts_rank_the_other_queries_once(
    shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blends = "".join(f"  - {{type: blend, name: b{i}, systems: [bm25, random], fit: train}}\n" for i in range(3))
    path = write_config(tmp_path, shop, blends)
    asked: list[str] = []

    def counted(system: System, *more: Any) -> SystemResult:
        asked.append(system.name)
        return systems.run_system(system, *more)

    monkeypatch.setattr(program, "run_system", counted)
    assert program.main(["--config", str(path), "--out", str(tmp_path / "out"), "--no-cache"]) == 0
    assert sorted(asked) == ["bm25", "bm25", "random", "random"]


def test_limit_is_a_sample(shop: Dataset) -> None:
    shop = dataclasses.replace(shop, candidates={key: dict.fromkeys(ids, 1.0) for key, ids in shop.qrels.items()})
    chosen = {program.make_requests(config("d", seed, 1), shop)[0].query.query_id for seed in range(20)}
    assert chosen == {"q1", "q2"}


def test_genrank_systems_write_their_rankings(
    shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = systems.run_system

    def run_system(system, config, dataset, requests, cache, asked):  # type: ignore[no-untyped-def]
        if system.type != "genrank":
            return real(system, config, dataset, requests, cache, asked)
        run = {
            r.query.query_id: {c.listing.listing_id: -float(i) for i, c in enumerate(r.candidates)} for r in requests
        }
        rankings = tuple(Ranking(query, (), Provenance(model="m", outcome="fallback", why="x")) for query in run)
        return SystemResult(run, 1.0, 0.5, rankings)

    monkeypatch.setattr(program, "run_system", run_system)
    path = write_config(tmp_path, shop, "  - {type: genrank, name: g, model: m}\n")
    assert (
        program.main(["--config", str(path), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]) == 0
    )
    system = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["systems"]["g"]
    assert system["counts"]["fallback"] == 2
    assert system["provenance"]["model"] == "m"
    assert system["queries_per_second"] == 2.0
    assert len((tmp_path / "out" / "g.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    assert "fallback" in capsys.readouterr().out


def test_a_failing_system_leaves_the_others(
    shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = systems.run_system

    def run_system(system, *rest):  # type: ignore[no-untyped-def]
        if system.type == "bm25":
            raise EngineError("the engine is gone")
        return real(system, *rest)

    monkeypatch.setattr(program, "run_system", run_system)
    path = write_config(tmp_path, shop)
    assert (
        program.main(["--config", str(path), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]) == 1
    )
    assert "bm25 failed" in capsys.readouterr().err
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert (list(results["systems"]), results["complete"]) == (["random"], False)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("split: none\n", "no query of shop has split 'none'"),
        ("relevant: 9\n", "no grade 9"),
        ("colour: red\n", "unknown key"),
    ],
)
def test_wrong_configs(
    shop: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str, words: str
) -> None:
    path = write_config(tmp_path, shop, more)
    assert (
        program.main(["--config", str(path), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]) == 2
    )
    assert words in capsys.readouterr().err


def test_absent_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(folder=tmp_path / "none"), encoding="utf-8")
    assert program.main(["--config", str(path)]) == 2
    assert "python -m eval.convert" in capsys.readouterr().err


def test_ir_measures_finds_the_same_figures_in_the_written_runs_of_equal_scores(
    shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ir_measures
    from ir_measures import RR, nDCG

    # in an order that is neither that of the ids nor its reverse
    order = {"q1": ("l3", "l1", "l2"), "q2": ("l3", "l2", "l4")}
    dataset = dataclasses.replace(shop, candidates={query: dict.fromkeys(ids, 1.0) for query, ids in order.items()})
    theirs = tmp_path / "theirs.trec"
    lines = (f"{query} Q0 {key} 1 0.7 t\n" for query, ids in order.items() for key in ids)
    theirs.write_text("".join(lines), encoding="utf-8")
    answered = StoredResult([[0.7, 0.7, 0.7], [0.7, 0.7 + 1e-12, 0.7]])
    monkeypatch.setattr(systems, "_compute", lambda *_: answered)
    values = {"dataset": "d", "systems": [{"type": "first-stage", "name": "ours"}]}
    results = program.run(RunConfig.model_validate(values), dataset, tmp_path / "out")
    monkeypatch.undo()
    values["systems"] = [{"type": "trec", "name": "theirs", "path": str(theirs)}]
    results["systems"] |= program.run(RunConfig.model_validate(values), dataset, tmp_path / "out")["systems"]
    qrels = [ir_measures.Qrel(query, key, grade) for query in order for key, grade in shop.qrels[query].items()]
    read: Any = ir_measures.read_trec_run  # which has no types
    files = {"ours": tmp_path / "out" / "ours.trec", "theirs": tmp_path / "out" / "theirs.trec"}
    for name, file in (*files.items(), ("theirs", theirs)):
        found = ir_measures.calc_aggregate([nDCG @ 10, RR(rel=2)], qrels, list(read(str(file))))
        metrics = results["systems"][name]["metrics"]
        assert metrics["nDCG-linear@10"] == pytest.approx(found[nDCG @ 10])
        assert metrics["MRR"] == pytest.approx(found[RR(rel=2)])
    assert [list(scores) for scores in read_run(files["ours"]).values()] == [["l3", "l1", "l2"], ["l2", "l3", "l4"]]
