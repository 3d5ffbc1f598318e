import dataclasses
import json
import math
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from scipy.special import softmax

from eval import calibrate as program
from eval import systems
from eval.calibrate import Windows, fit, measure
from eval.config import RunConfig
from genrank.blending import Blend, stored_blend
from genrank.calibration import Calibration, load_calibration
from genrank.data.dataset import Dataset
from genrank.errors import EngineError, InputError
from genrank.experiment.config import load_config
from genrank.experiment.metrics import listing_ids, ndcg_of
from genrank.experiment.systems import GenrankSystem
from genrank.reranker import Reranker
from genrank.search.feedback.estimates import ClickEstimates, Looks
from genrank.testing import OracleEngine, ScriptedEngine

INLINE = "[{type: genrank, name: g, model: m, decoding: inline}, {type: bm25}]"
MAKE_ENGINE = "genrank.experiment.systems.make_engine"


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def relevant_windows(temperature: float, bias: float, count: int = 400) -> Windows:
    """Log-odds ``x`` where the listing is relevant with the chance ``sigmoid(x / temperature + bias)``."""
    draw = random.Random(0)
    odds = [[draw.gauss(-2, 6) for _ in range(20)] for _ in range(count)]
    return [
        ([sigmoid(x) for x in row], [float(draw.random() < sigmoid(x / temperature + bias)) for x in row])
        for row in odds
    ]


def first_windows(temperature: float, count: int = 2_000) -> Windows:
    """Logits ``x`` where the one drawn from ``softmax(x / temperature)`` should come first."""
    draw = random.Random(0)
    windows = []
    for _ in range(count):
        row = [draw.gauss(0, 4) for _ in range(6)]
        (best,) = draw.choices(range(6), weights=softmax([x / temperature for x in row]).tolist())
        windows.append((softmax(row).tolist(), [float(i == best) for i in range(6)]))
    return windows


def test_inline_finds_the_temperature_and_the_bias() -> None:
    temperature, bias = fit("relevant", relevant_windows(3.0, 0.7))
    assert temperature == pytest.approx(3.0, rel=0.1)
    assert bias == pytest.approx(0.7, abs=0.1)


def test_first_token_finds_the_temperature() -> None:
    temperature, bias = fit("first", first_windows(2.5))
    assert temperature == pytest.approx(2.5, rel=0.1)
    assert bias == 0.0


def test_what_is_fitted_is_what_is_applied() -> None:
    windows = relevant_windows(3.0, 0.7, 50)
    temperature, bias = fit("relevant", windows)
    least = measure("relevant", windows, Calibration("inline", temperature, bias))["after"]["nll"]
    for t, b in ((temperature * 1.1, bias), (temperature / 1.1, bias), (temperature, bias + 0.1)):
        assert measure("relevant", windows, Calibration("inline", t, b))["after"]["nll"] > least


def test_figures_before_and_after() -> None:
    found = measure("relevant", [([0.9, 0.5], [1.0, 0.0]), ([0.5], [1.0])], Calibration("inline", 1e6))
    assert found["queries"] == 2
    assert found["before"] == pytest.approx(
        {
            "nll": -(math.log(0.9) + math.log(0.5) + math.log(0.5)) / 3,
            # the bins of 0.9, and of 0.5, which holds two
            "calibration_error": 1 / 3 * (1 - 0.9) + 2 / 3 * abs(1 / 2 - 0.5),
            "mean_probability": 1.9 / 3,
            "mean_outcome": 2 / 3,
            "probabilities": 3,
        }
    )
    assert found["after"]["nll"] == pytest.approx(math.log(2))
    firsts = measure("first", [([0.6, 0.4], [0.5, 0.5]), ([0.2, 0.8], [0.0, 1.0])], Calibration("first-token", 1.0))
    assert firsts["before"] == pytest.approx(
        {
            "nll": -((math.log(0.6) + math.log(0.4)) / 2 + math.log(0.8)) / 2,
            "calibration_error": (abs(0.5 - 0.6) + abs(1 - 0.8)) / 2,
            "mean_probability": (0.6 + 0.8) / 2,
            "mean_outcome": (0.5 + 1) / 2,
            "probabilities": 2,
        }
    )


def test_scores_of_0_and_1_that_are_wrong_stay_finite() -> None:
    for event, windows in (("relevant", [([0.0, 1.0], [1.0, 0.0])] * 3), ("first", [([0.0, 1.0], [1.0, 0.0])] * 3)):
        temperature, bias = fit(event, windows)  # type: ignore[arg-type]
        assert temperature == pytest.approx(100)
        calibration = Calibration("inline" if event == "relevant" else "first-token", temperature, bias)
        found = measure(event, windows, calibration)  # type: ignore[arg-type]
        assert math.isfinite(found["before"]["nll"])
        assert math.isfinite(found["after"]["nll"])


@pytest.mark.parametrize(
    ("event", "windows", "words"),
    [
        ("relevant", [([0.5, 0.6], [1.0, 0.0])], "1 judged query; a calibration needs two"),
        ("relevant", [([0.5], [1.0])] * 3, "all 3 candidates are relevant, or none is"),
        ("relevant", [([0.5], [0.0])] * 3, "all 3 candidates are relevant, or none is"),
        ("first", [([0.5, 0.5], [0.5, 0.5]), ([1.0], [1.0])], "no query has candidates of different grades"),
        ("first", [([0.5, 0.5], [0.0, 0.0])] * 2, "no query has candidates of different grades"),
    ],
)
def test_what_cannot_be_fitted_is_said(event: Any, windows: Windows, words: str) -> None:
    with pytest.raises(InputError, match=words):
        fit(event, windows)


@pytest.fixture
def shop_folder(shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # l5 is nobody's candidate; the engine takes l1 for better than l2, and l3 for better than both
    monkeypatch.setattr(
        "genrank.experiment.systems.make_engine", lambda _: OracleEngine({"l1": 2.0, "l2": 1.0, "l3": 3.0})
    )
    queries = [dataclasses.replace(query, split="dev" if query.split == "test" else "test") for query in shop.queries]
    candidates = {key: dict.fromkeys(ids, 1.0) for key, ids in shop.qrels.items()}
    dataclasses.replace(shop, queries=queries, candidates=candidates).save(tmp_path / "shop")
    return tmp_path


def call(folder: Path, *more: str, systems: str = INLINE) -> int:
    text = f"dataset: {folder / 'shop'}\nsystems: {systems}\n"
    (folder / "c.yaml").write_text(text, encoding="utf-8")
    return program.main(["--config", str(folder / "c.yaml"), "--no-cache", *more])


def test_the_program_fits_measures_and_stores(shop_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(shop_folder, "--test", "test", "--out", str(shop_folder / "adapter")) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["system"], found["decoding"], found["event"]) == ("g", "inline", "relevant")
    dev, test = found["splits"]["dev"], found["splits"]["test"]
    assert (dev["queries"], test["queries"]) == (2, 1)
    # grade 2 alone is relevant: l1 of q1, l3 and l4 of q2
    assert (dev["before"]["mean_outcome"], dev["before"]["probabilities"]) == (3 / 6, 6)
    assert dev["after"]["nll"] < dev["before"]["nll"]
    assert "g on dev ..." in err
    kept = load_calibration(shop_folder / "adapter", "inline")
    assert dataclasses.asdict(kept).items() <= found.items()
    assert kept.fitted_on == "shop, dev: 2 queries"
    assert kept.model == OracleEngine({}).model
    assert len(kept.prompt_hash) == 16


def test_a_calibrated_system_gives_the_calibrated_scores(shop_folder: Path, shop: Dataset) -> None:
    scores = {}
    folder = shop_folder / "adapter"
    for settings in ("", f", calibration: {folder}"):
        # a calibration that the configuration names already has no part in the fit
        assert (
            call(
                shop_folder,
                "--out",
                str(folder),
                systems=f"[{{type: genrank, name: g, model: m, decoding: inline{settings}}}]",
            )
            == 0
        )
        config = load_config(shop_folder / "c.yaml", RunConfig)
        requests = [shop.request(query) for query in shop.queries[:2]]
        (system,) = config.systems
        assert isinstance(system, GenrankSystem)
        scores[settings] = systems.run_system(system, config, shop, requests).probabilities
    raw, bent = scores.values()
    assert raw is not None
    assert bent is not None
    kept = load_calibration(folder, "inline")
    for query, chances in raw.items():
        assert list(bent[query].values()) == pytest.approx(kept.apply(list(chances.values())))


def test_first_token_has_an_event_of_its_own(shop_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listwise = "{type: genrank, name: l, model: m, decoding: listwise}"
    first = "{type: genrank, name: f, model: m, decoding: first-token}"
    assert call(shop_folder, "--system", "f", systems=f"[{listwise}, {first}]") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["event"], found["bias"], found["out"]) == ("first", 0.0, None)
    # l3 is put first in both; of q1 it is the worst, of q2 it shares the best grade with l4
    assert found["splits"]["dev"]["before"]["mean_outcome"] == pytest.approx((0 + 1 / 2) / 2)


@pytest.mark.parametrize(
    ("more", "systems", "status", "words"),
    [
        ([], "[{type: bm25}]", 2, "--system: there are 0 of type genrank"),
        ([], "[{type: genrank, name: a, model: m}, {type: genrank, name: b, model: m}]", 2, "there are 2 .*: a, b"),
        (
            ["--system", "bm25"],
            "[{type: bm25}, {type: genrank, name: a, model: m}]",
            2,
            "no system 'bm25'.*there are a",
        ),
        ([], "[{type: genrank, name: a, model: m, decoding: listwise}]", 2, "a is listwise, which gives no prob"),
        (
            [],
            "[{type: genrank, name: a, model: m, decoding: inline, window: 2, stride: 1}]",
            2,
            "max_candidates: query q1 took more than one window",
        ),
        (["--split", "gone"], "[{type: genrank, name: a, model: m}]", 2, "gone"),
    ],
)
def test_wrong_calls(
    shop_folder: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    systems: str,
    status: int,
    words: str,
) -> None:
    assert call(shop_folder, *more, systems=systems) == status
    assert re.search(words, capsys.readouterr().err)


def test_a_model_that_is_gone_is_a_failed_run(
    shop_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "genrank.experiment.systems.make_engine", lambda _: ScriptedEngine([EngineError("out of memory")])
    )
    assert call(shop_folder) == 1
    assert re.search("query q1 was not ranked by the model: the engine failed: out of memory", capsys.readouterr().err)


def test_a_weight_beside_a_system_is_fitted_and_stored(shop_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shop_folder / "adapter"
    assert call(shop_folder, "--blend", "bm25", "--test", "test", "--out", str(folder)) == 0
    found = json.loads(capsys.readouterr().out)["blend"]
    kept = stored_blend(folder, decoding="inline", prompt_hash=found["prompt_hash"], model=found["model"])
    assert kept == Blend(**{key: value for key, value in found.items() if key != "splits"})
    assert kept.fitted_on == "shop, dev: 2 queries beside bm25"
    assert load_calibration(folder, "inline").fitted_on == "shop, dev: 2 queries"
    for split in ("dev", "test"):
        assert set(found["splits"][split]) == {"ndcg@10_first_stage", "ndcg@10_model", "ndcg@10_blended"}


def test_a_weight_beside_the_candidates_own_scores_ranks_as_the_reranker_does(
    shop_folder: Path, shop: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"q1": {"l1": 3.0, "l2": 2.0, "l3": 1.0}, "q2": {"l4": 9.0, "l3": 8.0, "l2": 1.0}, "q3": {"l5": 1.0}}
    queries = [dataclasses.replace(query, split="dev") for query in shop.queries]
    scored = dataclasses.replace(shop, queries=queries, candidates=own, first_stage="search")
    scored.save(shop_folder / "shop")
    systems = "[{type: genrank, name: g, model: m, decoding: listwise}]"
    assert call(shop_folder, "--blend", systems=systems) == 0
    found = json.loads(capsys.readouterr().out)
    assert "splits" not in found, "listwise has no probabilities"
    assert found["blend"]["fitted_on"] == "shop, dev: 3 queries beside search"
    reranker = Reranker(
        engine=OracleEngine({"l1": 2.0, "l2": 1.0, "l3": 3.0}), decoding="listwise", blend=found["blend"]["weight"]
    )
    requests = [scored.request(query) for query in scored.queries]
    orders = [listing_ids(ranking) for ranking in reranker.rerank_batch(requests)]
    assert ndcg_of(scored, requests, orders) == pytest.approx(found["blend"]["splits"]["dev"]["ndcg@10_blended"])


def test_pointwise_scores_are_calibrated_too(shop_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    systems = "[{type: genrank, name: g, model: m, decoding: pointwise}]"
    assert call(shop_folder, systems=systems) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["decoding"], found["event"]) == ("pointwise", "relevant")


@pytest.mark.parametrize(
    ("blend", "words"),
    [
        (["--blend"], "--blend: candidates of shop have no first-stage scores .query q1.; give them some with"),
        (["--blend", "bm"], "--blend: no first stage 'bm'; there are bm25"),
    ],
    ids=["no scores", "unknown"],
)
def test_a_first_stage_without_scores_is_told(
    shop_folder: Path, shop: Dataset, capsys: pytest.CaptureFixture[str], blend: list[str], words: str
) -> None:
    queries = [dataclasses.replace(query, split="dev") for query in shop.queries]
    shutil.rmtree(shop_folder / "shop")
    dataclasses.replace(shop, queries=queries).save(shop_folder / "shop")
    assert call(shop_folder, *blend) == 2
    assert re.search(words, capsys.readouterr().err)


def test_a_weight_beside_click_estimates(shop_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # the engine puts l3 first for "red lamp", shoppers click l1, which is right
    clicks = {"Red lamp": {"l1": Looks(900, 300), "l2": Looks(900, 90), "l3": Looks(900, 1)}}
    ClickEstimates(clicks).save(shop_folder / "clicks.json")
    assert call(shop_folder, "--estimates", str(shop_folder / "clicks.json"), "--test", "test") == 0
    found = json.loads(capsys.readouterr().out)["estimates"]
    assert found["queries_with_data"] == {"dev": 1, "test": 0}
    dev, test = found["splits"]["dev"], found["splits"]["test"]
    assert dev["ndcg@10_blended"] >= dev["ndcg@10_model"]
    assert test["ndcg@10_blended"] == test["ndcg@10_model"]


def test_estimates_that_say_nothing_get_no_weight(shop_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ClickEstimates({"other": {"l1": Looks(9, 3)}}).save(shop_folder / "clicks.json")
    assert call(shop_folder, "--estimates", str(shop_folder / "clicks.json")) == 0
    assert json.loads(capsys.readouterr().out)["estimates"]["weight"] == 1.0
