"""The converters on the real files, where these lie beside the clone; they may not be redistributed."""

from collections import Counter
from pathlib import Path

import pytest

from eval.convert import summary
from eval.sets import amazon_user_history, crowdflower, games_history, homedepot
from genrank.data.dataset import Dataset
from genrank.experiment.metrics import measure, random_floor
from genrank.search.bm25 import Bm25

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def source(name: str) -> Path:
    path = DATA / name / "train.csv.gz"
    if not path.is_file():
        pytest.skip(f"{name}/train.csv.gz is not in ../shared/data")
    return path


def folder(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not in ../shared/data")
    return DATA / name


@pytest.fixture(scope="module")
def cf() -> Dataset:
    return crowdflower.read(source("crowdflower_search"), Counter())


def test_crowdflower_counts(cf: Dataset) -> None:
    assert summary(cf) == {
        "listings": 9912,
        "without_description": 2386,
        "queries": 261,
        "with_history": 0,
        "splits": {"dev": 30, "test": 61, "train": 170},
        "judgements": 10013,
        "grades": {"0": 770, "1": 1470, "2": 1721, "3": 6052},
    }


def test_crowdflower_splits_share_no_query(cf: Dataset) -> None:
    texts = {name: {query.query.text.strip().lower() for query in cf.split(name)} for name in ("train", "dev", "test")}
    assert len(texts["train"] | texts["dev"] | texts["test"]) == sum(map(len, texts.values()))
    assert [len(texts[name]) for name in texts] == [170, 30, 61]


def test_crowdflower_descriptions_hold_no_markup(cf: Dataset) -> None:
    assert not [x for x in cf.listings.values() if "</" in x.description or "{margin" in x.description]


def test_crowdflower_is_the_same_every_time(cf: Dataset, tmp_path: Path) -> None:
    again = crowdflower.read(source("crowdflower_search"), Counter())
    assert list(again.listings) == list(cf.listings)
    assert again == cf
    cf.save(tmp_path)
    assert Dataset.load(tmp_path) == cf


def test_crowdflower_baselines(cf: Dataset) -> None:
    requests = [cf.request(query, 20) for query in cf.split("test")]
    candidates = {r.query.query_id: [c.listing.listing_id for c in r.candidates] for r in requests}
    floor = random_floor(candidates, cf.qrels, cf.grades)["nDCG@10"]
    assert floor.mean == pytest.approx(0.73, abs=0.01)
    index = Bm25(cf.listings.values())
    run = {r.query.query_id: index.rank(r.query.text, candidates[r.query.query_id]) for r in requests}
    assert measure(run, candidates, cf.qrels, cf.grades).means["nDCG@10"] == pytest.approx(0.82, abs=0.01)


def test_homedepot_counts() -> None:
    notes: Counter[str] = Counter()
    dataset = homedepot.read(source("homedepot_search"), notes)
    counted = summary(dataset)
    assert counted["queries"] == 11793
    assert counted["listings"] == 54667
    assert counted["splits"] == {"dev": 1125, "test": 2362, "train": 8306}
    assert counted["judgements"] == 74062
    assert notes["means_that_are_no_thirds"] == 59
    assert notes["repeated_judgements"] == 5


def test_games_history_counts(tmp_path: Path) -> None:
    notes: Counter[str] = Counter()
    dataset = games_history.read(folder("games_history"), notes)
    assert summary(dataset) == {
        "listings": 16859,
        "without_description": 16859,
        "queries": 5600,
        "with_history": 5600,
        "splits": {"dev": 559, "test": 1112, "train": 3929},
        "judgements": 5600,
        "grades": {"1": 5600},
    }
    assert notes == {"targets_in_sasrec_20": 489, "targets_in_sasrec_50": 1051}
    assert {len(run) for run in dataset.candidates.values()} == {50}
    dataset.save(tmp_path)
    assert Dataset.load(tmp_path) == dataset


def test_amazon_user_history_counts(tmp_path: Path) -> None:
    notes: Counter[str] = Counter()
    dataset = amazon_user_history.read(folder("amazon2023_user_hist"), notes)
    assert summary(dataset) == {
        "listings": 3228,
        "without_description": 3228,
        "queries": 690,
        "with_history": 690,
        "splits": {"dev": 81, "test": 125, "train": 484},
        "judgements": 690,
        "grades": {"1": 690},
    }
    assert notes["interactions_not_before_the_query"] == 3078
    assert notes["queries_without_other_candidates"] == 1  # Baby_Products has one user
    assert {len(run) for run in dataset.candidates.values()} == {20}
    users: dict[str, set[str]] = {}
    for query in dataset.queries:
        users.setdefault(query.query.query_id.partition("-")[0], set()).add(query.split)
        assert query.time
        assert all(event.time and event.time < query.time for event in query.history)
    assert all(len(splits) == 1 for splits in users.values())
    dataset.save(tmp_path)
    assert Dataset.load(tmp_path) == dataset
