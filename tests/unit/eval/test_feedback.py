import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("duckdb")
pytest.importorskip("lightgbm")

from eval.feedback import (
    ARMS,
    FeedbackConfig,
    cross_validated,
    datasets,
    measure_feedback,
    recovered,
    share_interval,
    shop,
    simulate,
)
from genrank.data.dataset import Dataset
from genrank.experiment.config import load_config
from genrank.experiment.splits import digest
from genrank.search.feedback.log import FeedbackLog
from genrank.types import Request

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "eval/configs/feedback").glob("*.yaml"))
CONFIG = FeedbackConfig(dataset="bazaar", lists=40, size=5, folds=3, seeds=1, eta=1.5)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configs(path: Path) -> None:
    load_config(path, FeedbackConfig)
    assert path.read_text().startswith(f"# python -m eval.feedback --config eval/configs/feedback/{path.name}\n")


def test_recovered() -> None:
    values = {"naive": [0.5, 0.7], "corrected": [0.8, 0.76], "true": [0.9, 0.7]}
    assert recovered(values) == pytest.approx((0.78 - 0.6) / (0.8 - 0.6))
    assert recovered({**values, "true": [0.5, 0.7]}) is None
    many = {name: value * 50 for name, value in values.items()}
    low, high = share_interval(many, resamples=500)
    assert low < 0.9 < high
    equal = {"naive": [0.5] * 9, "corrected": [0.6] * 9, "true": [0.7] * 9}
    assert share_interval(equal, resamples=50) == pytest.approx((0.5, 0.5))


def test_shoppers_click_as_they_are_said_to(bazaar: Dataset, tmp_path: Path) -> None:
    dataset, requests = shop(bazaar, CONFIG.size)
    few = dict(list(requests.items())[:8])
    log = FeedbackLog(tmp_path / "log")
    clicks = simulate(log, dataset, list(few.values()), CONFIG, seed=0)
    (row,) = log.query(
        "SELECT count(DISTINCT request_id) AS lists, sum(clicks)::INT AS clicks, count(*) AS n FROM feedback"
    ).to_pylist()
    assert (row["lists"], row["clicks"]) == (8 * CONFIG.lists, clicks)
    most = max(grade.gain for grade in dataset.grades.values())
    moved = CONFIG.model_copy(update={"explore": 0.0, "lists": 400})
    one = FeedbackLog(tmp_path / "one")
    (request,) = list(few.values())[:1]
    simulate(one, dataset, [request], moved, seed=1)
    rates = one.query(
        "SELECT listing_id, rank, avg(clicks) AS rate FROM feedback GROUP BY ALL ORDER BY rank"
    ).to_pylist()
    assert [row["listing_id"] for row in rates] == [c.listing.listing_id for c in request.candidates]
    for row in rates:
        gain = dataset.grades[dataset.qrels[request.query.query_id][row["listing_id"]]].gain
        expected = (0.1 + 0.9 * gain / most) * row["rank"] ** -1.5
        assert row["rate"] == pytest.approx(expected, abs=0.09)


def test_rankers_learn_from_queries_that_they_do_not_rank(bazaar: Dataset, tmp_path: Path) -> None:
    dataset, requests = shop(bazaar, CONFIG.size)
    log = FeedbackLog(tmp_path / "log")
    simulate(log, dataset, list(requests.values()), CONFIG, seed=0)
    made, propensities = datasets(log, dataset, requests, CONFIG)
    assert set(made) == set(ARMS)
    assert propensities[4] == pytest.approx(5**-1.5, rel=0.6)
    grades = {one.query.query_id: dataset.qrels[one.query.query_id] for one in requests.values()}
    assert all(grades[key][one] == grade for key, own in made["true"].qrels.items() for one, grade in own.items())
    asked: list[str] = []

    def trainer(taught: Dataset, held: list[Request], seed: int) -> list[list[float]]:
        learned = {query.query.text for query in taught.queries}
        texts = [request.query.text for request in held]
        assert not learned & set(texts)
        asked.extend(texts)
        gains = [dataset.qrels[request.query.query_id] for request in held]
        return [
            [float(gain[c.listing.listing_id]) for c in request.candidates]
            for request, gain in zip(held, gains, strict=True)
        ]

    values = cross_validated({"true": made["true"]}, dataset, requests, trainer, CONFIG, seed=0)  # type: ignore[arg-type]
    assert sorted(asked) == sorted(request.query.text for request in requests.values())
    assert set(values["true"].values()) == {1.0}  # it was told the grades


def test_the_correction_wins_something_back(bazaar: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bazaar"
    # the queries of this shop come several times; as other texts, each is one of its own
    queries = [
        dataclasses.replace(one, query=dataclasses.replace(one.query, text=f"{one.query.text} {digest(str(i))[:6]}"))
        for i, one in enumerate(bazaar.queries)
    ]
    dataclasses.replace(bazaar, queries=queries).save(folder)
    config = CONFIG.model_copy(update={"dataset": str(folder), "size": 10})
    found = measure_feedback(config, tmp_path / "data")
    assert found["means"]["true"] > found["means"]["first_stage"]
    assert found["runs"][0]["propensity_error"]["mean"] < 0.6
    assert set(found["recovered"]) == {"corrected", "known"}
    for arm in ARMS:
        assert Dataset.load(tmp_path / "data" / arm).split("train")
