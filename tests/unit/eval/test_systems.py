from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import save_file

from eval import systems
from eval.cache import StoredResult
from eval.config import Bm25System, FirstStageSystem, RandomSystem, RunConfig, System, TrecSystem
from eval.systems import SystemResult, run_system
from genrank.calibration import Calibration, save_calibration
from genrank.data.dataset import Dataset
from genrank.data.trec import Run, write_run
from genrank.errors import ConfigError, EngineError
from genrank.experiment.systems import CascadeSystem, GenrankSystem
from genrank.testing import OracleEngine, ScriptedEngine
from genrank.types import Interaction, Listing, Provenance, RankedItem, Ranking, Request, Tokens


def ranked(system: System, shop: Dataset, requests: Sequence[Request], seed: int = 0) -> Run:
    config = RunConfig(dataset="d", seed=seed, systems=(system,))
    return run_system(system, config, shop, requests).run


def requests_of(shop: Dataset) -> list[Request]:
    return [shop.request(query) for query in shop.queries]


def test_random_depends_on_seed_and_query_alone(shop: Dataset) -> None:
    system, requests = RandomSystem(type="random"), requests_of(shop)
    run = ranked(system, shop, requests)
    assert run == ranked(system, shop, requests)
    assert run["q2"] == ranked(system, shop, requests[1:2])["q2"]
    turned = [Request(request.query, request.candidates[::-1]) for request in requests]
    assert run == ranked(system, shop, turned)
    assert len({tuple(ranked(system, shop, requests, seed)["q1"]) for seed in range(20)}) > 2


def test_first_stage_keeps_the_order(shop: Dataset) -> None:
    run = ranked(FirstStageSystem(type="first-stage"), shop, requests_of(shop))
    assert {query: list(scores) for query, scores in run.items()} == {q: list(ids) for q, ids in shop.qrels.items()}


def test_bm25(shop: Dataset) -> None:
    for system in (Bm25System(type="bm25"), Bm25System(type="bm25", idf="candidates")):
        run = ranked(system, shop, requests_of(shop))
        assert next(iter(run["q1"])) == "l1"
        assert list(run["q2"]) == ["l3", "l4", "l2"]


def test_counts() -> None:
    items = (RankedItem(Listing("a", "a"), 1, 1.0, 1),)
    rankings = (
        Ranking("q", items, Provenance(windows=2, tokens=Tokens(10, 4, 1), cuts={"candidates": 3})),
        Ranking("r", items, Provenance(outcome="repaired", why="odd", repairs=("x", "y"), cuts={"candidates": 2})),
        Ranking("s", items, Provenance(outcome="fallback", why="odd", tokens=Tokens(1, 0, 0))),
    )
    assert SystemResult({}, 1.0, 0.0, rankings).counts() == {
        "model": 1,
        "repaired": 1,
        "fallback": 1,
        "repairs": 2,
        "whys": {"odd": 2},
        "cuts": {"candidates": 5},
        "windows": 2,
        "prompt_tokens": 11,
        "cached_tokens": 4,
        "completion_tokens": 1,
    }
    assert SystemResult({}, 1.0, 0.0).counts() == {}


def test_a_run_from_elsewhere_is_completed(shop: Dataset, tmp_path: Path) -> None:
    write_run(tmp_path / "run", {"q1": {"l3": 3.0, "odd": 2.0, "l1": 1.0}, "q2": {"l4": 2.0, "l3": 2.0, "l2": 1.0}})
    system = TrecSystem(type="trec", name="theirs", path=str(tmp_path / "run"))
    result = run_system(system, RunConfig(dataset="d", systems=(system,)), shop, requests_of(shop)[:2])
    assert list(result.run["q1"]) == ["l3", "l1", "l2"]
    assert sorted(result.run["q1"].values(), reverse=True) == [3.0, 2.0, 1.0]
    assert sum(result.notes.values()) == 2  # one listing that is not a candidate, one candidate that was lost
    with pytest.raises(ConfigError, match="path: there is no"):
        ranked(TrecSystem(type="trec", name="theirs", path=str(tmp_path / "none")), shop, requests_of(shop))


class Counted:
    """Stands where the engine is made, and counts what is asked of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: ScriptedEngine) -> None:
        self.engine = engine
        self.loads = 0
        self.model = tmp_path / "model"
        self.model.mkdir()
        (self.model / "config.json").write_text("{}", encoding="utf-8")
        save_file({"weight": np.ones(1, dtype=np.float32)}, self.model / "model.safetensors")
        monkeypatch.setattr("genrank.experiment.systems.make_engine", self._load)

    def _load(self, _: GenrankSystem) -> ScriptedEngine:
        self.loads += 1
        return self.engine

    def answer(self, shop: Dataset, cache: Path | None, name: str = "g", **settings: int | str) -> SystemResult:
        values = {"type": "genrank", "name": name, "model": str(self.model), "batch": 1}
        values |= {"decoding": "inline", "passes": 1} | settings
        system = GenrankSystem.model_validate(values)
        return run_system(system, RunConfig(dataset="d", systems=(system,)), shop, requests_of(shop), cache)


GRADES = {"l1": 2.0, "l2": 1.0, "l3": 3.0}


def test_an_answer_is_kept_until_something_changes(
    shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch, tmp_path, OracleEngine(GRADES))
    first = counted.answer(shop, tmp_path / "cache")
    assert (counted.engine.calls, first.cached, list(first.run["q1"])) == (3, False, ["l3", "l1", "l2"])
    again = counted.answer(shop, tmp_path / "cache", name="renamed")
    assert (counted.engine.calls, again.cached) == (3, True)
    assert (again.run, again.rankings, again.seconds) == (first.run, first.rankings, first.seconds)
    counted.answer(shop, tmp_path / "cache", passes=2)
    assert counted.engine.calls == 6
    (counted.model / "config.json").write_text("{} ", encoding="utf-8")
    counted.answer(shop, tmp_path / "cache")
    assert counted.engine.calls == 9
    counted.answer(shop, None)
    assert counted.engine.calls == 12


def test_a_run_that_was_stopped_goes_on(shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch, tmp_path, OracleEngine(GRADES))
    whole = counted.answer(shop, None)
    real, left = counted.engine.score, [1, 1]

    def score(requests, **options):  # type: ignore[no-untyped-def]
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return real(requests, **options)

    monkeypatch.setattr(counted.engine, "score", score)
    with pytest.raises(KeyboardInterrupt):
        counted.answer(shop, tmp_path / "cache")
    left.append(1)
    asked = len(counted.engine.requests)
    resumed = counted.answer(shop, tmp_path / "cache")
    assert (resumed.run, resumed.cached) == (whole.run, False)
    assert len(counted.engine.requests) == asked + 1


def test_fallbacks_are_tried_again(shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch, tmp_path, OracleEngine(GRADES))
    real, troubles = counted.engine.score, [EngineError("gone")]

    def score(requests, **options):  # type: ignore[no-untyped-def]
        if troubles:
            raise troubles.pop()
        return real(requests, **options)

    monkeypatch.setattr(counted.engine, "score", score)
    assert counted.answer(shop, tmp_path / "cache").counts()["fallback"] == 1
    again = counted.answer(shop, tmp_path / "cache")
    assert (again.cached, again.counts()["fallback"], len(counted.engine.requests)) == (False, 0, 3)


def test_a_calibration_bends_the_scores_and_is_part_of_the_key(
    shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch, tmp_path, OracleEngine(GRADES))
    cache, adapter = tmp_path / "cache", tmp_path / "adapter"
    raw = counted.answer(shop, cache)
    assert raw.probabilities is not None
    for temperature in (2.0, 3.0):
        calibration = Calibration("inline", temperature, 0.5)
        save_calibration(calibration, adapter)
        bent = counted.answer(shop, cache, calibration=str(adapter))
        assert not bent.cached
        assert bent.probabilities is not None
        for query, chances in raw.probabilities.items():
            assert list(bent.probabilities[query].values()) == pytest.approx(calibration.apply([*chances.values()]))
    (adapter / "adapter_model.safetensors").write_bytes(b"0")
    assert counted.answer(shop, cache, calibration=str(adapter)).cached
    save_calibration(Calibration("inline", 2.0, prompt_hash="ff"), adapter)
    with pytest.raises(ConfigError, match="fitted with the prompt hash ff, not"):
        counted.answer(shop, cache, calibration=str(adapter))


def test_whose_history_is_shown(shop: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    pasts = {"q1": (Interaction("view", shop.listings["l5"]),), "q2": ()}
    queries = [replace(query, history=pasts.get(query.query.query_id, ())) for query in shop.queries]
    requests = [shop.request(query) for query in queries[:2]]
    seen: dict[str, list[int]] = {}

    def compute(system: GenrankSystem, requests: Sequence[Request], *_: object) -> StoredResult:
        seen[system.history] = [len(request.history) for request in requests]
        return StoredResult([[0.0] * len(request.candidates) for request in requests], None, (), 0.0, 0.0)

    monkeypatch.setattr(systems, "_genrank", compute)
    config = RunConfig.model_validate({"dataset": "d", "systems": [{"type": "random"}]})
    for whose in ("own", "none", "other"):
        settings = {"type": "genrank", "name": "g", "model": "m", "history": whose}
        run_system(GenrankSystem.model_validate(settings), config, shop, requests)
    assert seen == {"own": [1, 0], "none": [0, 0], "other": [0, 1]}


def cascade_of(shop: Dataset, tmp_path: Path, **changes: Any) -> SystemResult:
    first = {"type": "genrank", "name": "first", "model": str(tmp_path / "model"), "decoding": "pointwise"}
    second = first | {"decoding": "inline", "passes": 1} | changes.pop("second", {})
    values = {"type": "cascade", "name": "both", "first": first | changes.pop("first", {}), "second": second, "top": 2}
    system = CascadeSystem.model_validate(values | changes)
    return run_system(system, RunConfig(dataset="d", systems=(system,)), shop, requests_of(shop), tmp_path / "cache")


def test_a_cascade_is_measured_with_one_engine_and_both_stages_are_part_of_the_key(
    shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch, tmp_path, OracleEngine(GRADES))
    found = cascade_of(shop, tmp_path)
    assert list(found.run["q1"]) == ["l3", "l1", "l2"]
    assert all(ranking.provenance.then is not None for ranking in found.rankings)
    assert (counted.loads, cascade_of(shop, tmp_path).cached) == (1, True)
    assert not cascade_of(shop, tmp_path, second={"passes": 2}).cached
    assert not cascade_of(shop, tmp_path, scores="add").cached
    assert not cascade_of(shop, tmp_path, second={"adapter": str(tmp_path)}).cached
    assert counted.loads == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first": {"reasons": 1}}, "first.reasons: must be 0, the second reranker writes them"),
        ({"second": {"reasons": 3}}, "second.reasons: must be at most top, 2, got 3"),
        ({"second": {"history": "none"}}, "second.history: must be that of first, own, got none"),
        ({"top": 1}, "greater than or equal to 2"),
    ],
)
def test_a_cascade_that_does_not_fit(shop: Dataset, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        cascade_of(shop, tmp_path, **changes)
