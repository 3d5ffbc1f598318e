import dataclasses
import importlib.util
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.baseline.config import BaselineConfig
from eval.baseline.training import calibrate, train
from genrank.data.dataset import Dataset, DatasetQuery, Grade
from genrank.errors import (
    ChecksumError,
    ConfigError,
    InputError,
    MissingExtraError,
    ModelError,
    ModelNotFoundError,
)
from genrank.experiment.metrics import ndcg, random_floor
from genrank.experiment.splits import with_dev
from genrank.rankers.features import GROUPS, NAMES
from genrank.rankers.gbdt import ClickCurve, GbdtRanker, check_folder, columns, load_fallback, split_scores
from genrank.search.dense import TextEncoder, Vectors
from genrank.types import Candidate, Listing, Query, Request

pytest.importorskip("lightgbm")
pytest.importorskip("ranx")

CONFIG = BaselineConfig(dataset="-", rounds=60, patience=20, leaves=7, leaf_candidates=5, max_candidates=20)
BINARY = CONFIG.model_copy(update={"objective": "binary"})


def requests_of(dataset: Dataset, split: str) -> list[Request]:
    return [dataset.request(query) for query in dataset.split(split)]


def floor(dataset: Dataset, requests: list[Request]) -> float:
    candidates = {r.query.query_id: [c.listing.listing_id for c in r.candidates] for r in requests}
    return random_floor(candidates, dataset.qrels, dataset.grades)["nDCG@10"].mean


@pytest.fixture(scope="module")
def trained(bazaar: Dataset, encoder: TextEncoder) -> GbdtRanker:
    return train(bazaar, CONFIG, encoder)


def manifest(folder: Path) -> Any:
    return json.loads((folder / "baseline.json").read_text())


def test_it_learns_the_order(bazaar: Dataset, encoder: TextEncoder) -> None:
    baseline = train(bazaar, CONFIG, encoder)
    requests = requests_of(bazaar, "test")
    scores = baseline.score(requests)
    assert [len(row) for row in scores] == [len(request.candidates) for request in requests]
    assert all(math.isfinite(score) for row in scores for score in row)
    assert ndcg(bazaar, requests, scores, 10) > 0.9 > floor(bazaar, requests) + 0.1
    assert baseline.objective == "lambdarank"
    assert baseline.record["queries"] == {"train": 36, "dev": 12}
    assert baseline.record["candidates"] == {"train": 36 * 15, "dev": 12 * 15}
    assert not baseline.record["dev_from_train"]
    assert sum(baseline.record["importance"].values()) == pytest.approx(1.0)


def test_it_is_the_same_every_time(bazaar: Dataset, encoder: TextEncoder) -> None:
    config = CONFIG.model_copy(update={"bags": 2})
    requests = requests_of(bazaar, "test")
    first, second = (train(bazaar, config, encoder) for _ in range(2))
    assert first.score(requests) == second.score(requests)
    assert first.record == second.record
    assert len(first.record["trees"]) == 2
    other = train(bazaar, config.model_copy(update={"seed": 5}), encoder)
    assert other.score(requests) != first.score(requests)


def test_test_queries_are_never_read(bazaar: Dataset, encoder: TextEncoder) -> None:
    test = {query.query.query_id for query in bazaar.split("test")}
    without = dataclasses.replace(
        bazaar,
        queries=[query for query in bazaar.queries if query.split != "test"],
        qrels={key: judged for key, judged in bazaar.qrels.items() if key not in test},
    )
    requests = requests_of(bazaar, "test")
    first, second = (train(dataset, CONFIG, encoder) for dataset in (bazaar, without))
    assert first.record == second.record
    assert first.score(requests) == second.score(requests)


def test_without_dev_some_training_queries_become_it(bazaar: Dataset, encoder: TextEncoder) -> None:
    queries = [query for query in bazaar.queries if query.split != "dev"]
    baseline = train(dataclasses.replace(bazaar, queries=queries), CONFIG, encoder)
    assert baseline.record["dev_from_train"]
    assert baseline.record["queries"] == {"train": 29, "dev": 7}  # a fifth of 36


def test_the_groups_that_are_asked_for_are_used(bazaar: Dataset, encoder: TextEncoder) -> None:
    baseline = train(bazaar, CONFIG.model_copy(update={"groups": ("price", "popularity")}), encoder)
    assert set(baseline.record["importance"]) == {NAMES[i] for i in columns(("price", "popularity"))}
    assert columns(GROUPS) == list(range(len(NAMES)))


def test_clicks(bazaar: Dataset, encoder: TextEncoder, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    requests = requests_of(bazaar, "test")
    for kind in ("platt", "isotonic"):
        baseline = train(bazaar, BINARY.model_copy(update={"calibration": kind}), encoder)
        chances = baseline.probabilities(requests)
        assert all(0 <= chance <= 1 for row in chances for chance in row)
        clicks = [bazaar.qrels[r.query.query_id][c.listing.listing_id] >= 2 for r in requests for c in r.candidates]
        flat = np.array([chance for row in chances for chance in row])
        assert flat[clicks].mean() > 0.7 > 0.2 > flat[~np.array(clicks)].mean()
        for chance, score in zip(chances, baseline.score(requests), strict=True):
            order = np.argsort(score)
            assert (np.diff(np.array(chance)[order]) >= 0).all()
        baseline.save(tmp_path / kind)
        assert GbdtRanker.load(tmp_path / kind, encoder).probabilities(requests) == chances
        base = sum(clicks) / len(clicks)
        assert baseline.record["dev"]["log_loss"] < -(base * math.log(base) + (1 - base) * math.log(1 - base))


def test_an_order_knows_no_probabilities(trained: GbdtRanker, bazaar: Dataset) -> None:
    with pytest.raises(InputError, match="objective: binary"):
        trained.probabilities(requests_of(bazaar, "test"))


# degenerate data --------------------------------------------------------------------------------------------------


def test_no_order_to_learn(bazaar: Dataset, encoder: TextEncoder) -> None:
    for grade in (0, 2):
        flat = {query: dict.fromkeys(judged, grade) for query, judged in bazaar.qrels.items()}
        for config in (CONFIG, BINARY):
            with pytest.raises(ConfigError, match=r"nothing to learn|no order to learn"):
                train(dataclasses.replace(bazaar, qrels=flat), config, encoder)


def test_no_click_on_dev(bazaar: Dataset, encoder: TextEncoder) -> None:
    pytest.importorskip("sklearn")
    dev = {query.query.query_id for query in bazaar.split("dev")}
    qrels = {key: dict.fromkeys(judged, 0) if key in dev else judged for key, judged in bazaar.qrels.items()}
    with pytest.raises(ConfigError, match="calibrated"):
        train(dataclasses.replace(bazaar, qrels=qrels), BINARY, encoder)


def test_too_few_queries(bazaar: Dataset, encoder: TextEncoder) -> None:
    for queries in ([], bazaar.split("train")[:1], bazaar.split("dev"), bazaar.split("test")):
        with pytest.raises(ConfigError, match="training queries"):
            train(dataclasses.replace(bazaar, queries=queries), CONFIG, encoder)


def test_one_query_to_learn_from(bazaar: Dataset, encoder: TextEncoder) -> None:
    queries = [bazaar.split("train")[0], bazaar.split("dev")[0]]
    baseline = train(dataclasses.replace(bazaar, queries=queries), CONFIG, encoder)
    assert all(math.isfinite(score) for row in baseline.score(requests_of(bazaar, "test")) for score in row)


def test_queries_without_candidates_are_counted(bazaar: Dataset, encoder: TextEncoder) -> None:
    queries = [*bazaar.queries, DatasetQuery(Query("x", "lost"), "train")]
    baseline = train(dataclasses.replace(bazaar, queries=queries), CONFIG, encoder)
    assert baseline.record["queries_without_candidates"] == {"train": 1, "dev": 0}
    assert baseline.record["queries"] == {"train": 36, "dev": 12}
    bare = dataclasses.replace(bazaar, queries=[DatasetQuery(Query("x", f"lost{i}"), "train") for i in range(3)])
    with pytest.raises(ConfigError, match="candidates or judgements"):
        train(bare, CONFIG, encoder)


def test_unknown_grade(bazaar: Dataset, encoder: TextEncoder) -> None:
    with pytest.raises(ConfigError, match="relevant: no grade 7"):
        train(bazaar, CONFIG.model_copy(update={"relevant": 7}), encoder)


def test_negative_gains(bazaar: Dataset, encoder: TextEncoder) -> None:
    grades = {**bazaar.grades, 0: Grade("bad", -1.0)}
    with pytest.raises(ConfigError, match="negative, got -1"):
        train(dataclasses.replace(bazaar, grades=grades), CONFIG, encoder)


def test_bare_requests(trained: GbdtRanker) -> None:
    titles = Request(Query("red lamp"), (Candidate(Listing("1", "blue rug")), Candidate(Listing("2", "red lamp"))))
    one = Request(Query("!"), (Candidate(Listing("1", "?")),))
    (row, (single,)) = trained.score([titles, one])
    assert row[1] > row[0]
    assert math.isfinite(single)
    assert trained.score([]) == []


# the folder -------------------------------------------------------------------------------------------------------


def test_a_loaded_ranker_scores_the_same(
    trained: GbdtRanker, bazaar: Dataset, encoder: TextEncoder, tmp_path: Path
) -> None:
    trained.save(tmp_path / "a" / "b")
    loaded = GbdtRanker.load(tmp_path / "a" / "b", encoder)
    requests = requests_of(bazaar, "test")
    assert loaded.score(requests) == trained.score(requests)
    assert loaded.config == trained.config
    assert loaded.record == trained.record
    loaded.save(tmp_path / "a" / "b")  # over itself
    assert GbdtRanker.load(tmp_path / "a" / "b", encoder).score(requests) == trained.score(requests)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_no_other_folder_is_written_over(trained: GbdtRanker, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="something other"):
        trained.save(tmp_path)
    with pytest.raises(ConfigError, match="something other"):
        trained.save(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    trained.save(tmp_path / "empty")


def test_no_baseline(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ModelNotFoundError, match="holds no BERT"):
            GbdtRanker.load(folder)


@pytest.mark.parametrize("name", ["model-0.txt", "statistics.json.gz"])
def test_a_changed_or_missing_file(trained: GbdtRanker, encoder: TextEncoder, tmp_path: Path, name: str) -> None:
    trained.save(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ChecksumError, match=name):
        GbdtRanker.load(tmp_path, encoder)
    (tmp_path / name).unlink()
    with pytest.raises(ChecksumError, match=name):
        GbdtRanker.load(tmp_path, encoder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 99, "format 99"),
        ("config", {"dataset": "-", "unknown": 1}, "damaged"),
        ("features", ["cosine"], "another version"),
        ("encoder", {}, "damaged"),
        ("calibration", {"slope": 1}, "damaged"),
        ("record", None, "damaged"),
        ("files", [], "damaged"),
        ("files", {}, "names no model-0"),
        ("config", {"dataset": "-", "bags": 3}, "damaged"),
    ],
)
def test_a_damaged_manifest(
    trained: GbdtRanker, encoder: TextEncoder, tmp_path: Path, key: str, value: object, message: str
) -> None:
    trained.save(tmp_path)
    (tmp_path / "baseline.json").write_text(json.dumps(manifest(tmp_path) | {key: value}))
    with pytest.raises(ModelError, match=message):
        GbdtRanker.load(tmp_path, encoder)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", "\x00"])
def test_a_manifest_that_is_none(trained: GbdtRanker, tmp_path: Path, text: str) -> None:
    trained.save(tmp_path)
    (tmp_path / "baseline.json").write_text(text)
    with pytest.raises(ModelError, match="damaged"):
        GbdtRanker.load(tmp_path)


def test_another_encoder(trained: GbdtRanker, tmp_path: Path, encoder: TextEncoder) -> None:
    trained.save(tmp_path)
    with pytest.raises(ModelError, match="another version of the encoder"):
        GbdtRanker.load(tmp_path, type(encoder)("0" * 16))  # type: ignore[call-arg]


def test_nothing_in_the_folder_is_a_pickle(trained: GbdtRanker, tmp_path: Path) -> None:
    trained.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["baseline.json", "model-0.txt", "statistics.json.gz"]


# parts ------------------------------------------------------------------------------------------------------------


def test_calibration_curves() -> None:
    assert ClickCurve(slope=2.0, offset=-1.0)(np.array([0.5, -800.0, 800.0])) == pytest.approx([0.5, 0.0, 1.0])
    steps = ClickCurve(scores=(0.0, 1.0), chances=(0.2, 0.6))
    assert steps(np.array([-5.0, 0.25, 9.0])) == pytest.approx([0.2, 0.2 + 0.25 * 0.4, 0.6])


def test_calibration_finds_the_curve() -> None:
    pytest.importorskip("sklearn")
    draw = np.random.default_rng(0)
    scores = draw.normal(size=5000)
    clicks = (draw.random(5000) < 1 / (1 + np.exp(-(2 * scores - 1)))).astype(float)
    curve = calibrate(scores, clicks, "platt")
    assert (curve.slope, curve.offset) == pytest.approx((2, -1), abs=0.15)
    at = np.array([-1.0, 0.0, 1.0])
    assert calibrate(scores, clicks, "isotonic")(at) == pytest.approx(1 / (1 + np.exp(-(2 * at - 1))), abs=0.08)


def test_scores_that_know_nothing_give_the_share_of_clicks() -> None:
    pytest.importorskip("sklearn")
    curve = calibrate(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 0.0, 0.0, 0.0]), "platt")
    assert curve(np.array([-9.0, 9.0])) == pytest.approx([1 / 4, 1 / 4])


def test_scores_are_split_by_request() -> None:
    request = Request(Query("x", "q"), tuple(Candidate(Listing(key, "t")) for key in ("b", "a", "c")))
    assert split_scores([request, request], np.arange(6, dtype=np.float64)) == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def test_with_dev(bazaar: Dataset) -> None:
    assert with_dev(bazaar, 0.2, 0) is bazaar
    train = dataclasses.replace(bazaar, queries=bazaar.split("train") + bazaar.split("test"))
    made = [with_dev(train, 0.25, seed) for seed in (0, 0, 1)]
    dev = [{query.query.query_id for query in one.split("dev")} for one in made]
    assert len(dev[0]) == 9
    assert dev[0] == dev[1] != dev[2]
    assert [q.query.query_id for q in made[0].split("test")] == [q.query.query_id for q in train.split("test")]
    two = dataclasses.replace(bazaar, queries=bazaar.split("train")[:2])
    assert [len(with_dev(two, share, 0).split("dev")) for share in (0.01, 0.99)] == [1, 1]


def test_as_a_fallback_it_is_warm(
    trained: GbdtRanker, bazaar: Dataset, encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.save(tmp_path / "ranker")
    encoded: list[str] = []
    encode = encoder.encode

    def recorded(texts: Sequence[str], *, queries: bool = False) -> Vectors:
        encoded.extend(texts)
        return encode(texts, queries=queries)

    monkeypatch.setattr(encoder, "encode", recorded)
    fallback = load_fallback(tmp_path / "ranker", encoder)
    assert encoded, "the encoder is loaded by now"
    requests = requests_of(bazaar, "test")
    assert fallback(requests) == trained.score(requests)


def test_the_folder_of_a_fallback_is_checked_before_anything_is_loaded(
    trained: GbdtRanker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec("json")
    monkeypatch.setattr("genrank.rankers.gbdt.find_spec", lambda name: None if name == "lightgbm" else found)
    with pytest.raises(MissingExtraError, match=r"lightgbm is not installed; .*genrank\[rankers\]"):
        check_folder(tmp_path)
    monkeypatch.setattr("genrank.rankers.gbdt.find_spec", lambda _: found)
    with pytest.raises(ModelNotFoundError, match="holds no BERT"):
        check_folder(tmp_path / "ranker")
    trained.save(tmp_path / "ranker")
    check_folder(tmp_path / "ranker")
    (tmp_path / "ranker" / "model-0.txt").write_text("other")
    with pytest.raises(ChecksumError, match="was changed"):
        check_folder(tmp_path / "ranker")
