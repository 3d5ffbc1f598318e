from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from math import inf, log2, nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import cross_encoder
from eval.cross_encoder import CrossEncoderConfig, fingerprint, main, make_lists, train
from genrank.data.dataset import Dataset, DatasetQuery, Grade, sample_shop
from genrank.data.trec import read_run
from genrank.errors import (
    ChecksumError,
    ConfigError,
    InputError,
    MissingExtraError,
    ModelError,
    ModelNotFoundError,
    OutputError,
)
from genrank.experiment.config import load_config
from genrank.experiment.metrics import run_of
from genrank.rankers.cross_encoder import FORMAT, MANIFEST, CrossEncoderRanker, CrossEncoderSettings, read_manifest
from genrank.types import Candidate, Listing, Query, Request

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = sorted((ROOT / "eval/configs/cross-encoder").glob("*.yaml"))
GAINS = (0.0, 1.0, 3.0, 7.0)


def config(**settings: Any) -> CrossEncoderConfig:
    return CrossEncoderConfig(**{"dataset": "sample-shop"} | settings)


def dataset(qrels: Mapping[str, Mapping[str, int]], candidates: Mapping[str, list[str]] | None = None) -> Dataset:
    """Train queries with these judgements and candidates; titles get longer with the id."""
    candidates = candidates or {}
    ids = {key for judged in qrels.values() for key in judged} | {key for keys in candidates.values() for key in keys}
    return Dataset(
        "tiny",
        "made up",
        {grade: Grade(str(grade), gain) for grade, gain in enumerate(GAINS)},
        {key: Listing(key, f"title {key}", description=f"about {key}") for key in ids},
        [DatasetQuery(Query(f"text {key}", key), "train") for key in dict.fromkeys([*qrels, *candidates])],
        {query: dict(judged) for query, judged in qrels.items()},
        {query: {key: float(-i) for i, key in enumerate(keys)} for query, keys in candidates.items()},
    )


def request(*listing_ids: str) -> Request:
    return Request(Query("q", "q1"), tuple(Candidate(Listing(key, f"title {key}")) for key in listing_ids))


class Scores(list[float]):
    def tolist(self) -> list[float]:
        return self


class Scripted:
    """In the place of sentence-transformers' model: the score is a function of the listing's text."""

    def __init__(self, **scores: float) -> None:
        self.scores = {f"title {key}": score for key, score in scores.items()}
        self.pairs: list[tuple[str, str]] = []

    def predict(self, pairs: list[tuple[str, str]], **options: Any) -> Scores:
        self.pairs += pairs
        return Scores(self.scores.get(text, 0.0) for _, text in pairs)


def scripted(settings: CrossEncoderConfig | None = None, **scores: float) -> tuple[CrossEncoderRanker, Scripted]:
    model: Any = Scripted(**scores)
    read = CrossEncoderSettings.model_validate((settings or config()).model_dump())
    return CrossEncoderRanker(model, read), model


# ---------------------------------------------------------------------------------------------------------------------
# Configuration
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_open_with_their_command(path: Path) -> None:
    command = f"# python -m eval.cross_encoder train --config {path.relative_to(ROOT).as_posix()}"
    assert path.read_text(encoding="utf-8").splitlines()[0] == command
    assert load_config(path, CrossEncoderConfig)


def test_what_is_shipped() -> None:
    assert [path.stem for path in SHIPPED] == ["crowdflower", "homedepot", "sample-shop"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epoch: 3", "did you mean epochs?"),
        ("fields: []", "fields: "),
        ("fields: [tittle]", "fields"),
        ("list_size: 1", "list_size: "),
        ("learning_rate: 0", "learning_rate: "),
        ("warmup: 1.5", "warmup: "),
        ("weighting: ndcg", "weighting: "),
        ("dev_share: 1", "dev_share: "),
    ],
)
def test_a_wrong_setting_is_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"dataset: sample-shop\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=message.replace("?", "[?]")):
        load_config(tmp_path / "c.yaml", CrossEncoderConfig)


# ---------------------------------------------------------------------------------------------------------------------
# Lists
# ---------------------------------------------------------------------------------------------------------------------


def test_a_label_is_what_lambda_loss_turns_into_the_gain() -> None:
    (one,) = make_lists(dataset({"q": {"a": 0, "b": 1, "c": 2, "d": 3}}), config(fields=("title",)))
    assert one.query == "text q"
    assert dict(zip(one.documents, one.labels, strict=True)) == {
        f"title {key}": log2(1 + gain) for key, gain in zip("abcd", GAINS, strict=True)
    }
    assert [2**label - 1 for label in sorted(one.labels)] == list(GAINS)


def test_only_the_named_fields_are_read_as_one_clean_line() -> None:
    data = dataset({"q": {"a": 0, "b": 1}})
    listings = {
        key: dataclasses.replace(value, description="a\n\u200b\ud800 b") for key, value in data.listings.items()
    }
    (one,) = make_lists(
        dataclasses.replace(data, listings=listings), config(fields=("title", "description"), list_size=5)
    )
    assert sorted(one.documents) == ["title a a b", "title b a b"]


def test_candidates_without_a_judgement_have_no_gain() -> None:
    (one,) = make_lists(dataset({"q": {"a": 2}}, {"q": ["b", "a", "c"]}), config(fields=("title",)))
    labels = dict(zip(one.documents, one.labels, strict=True))
    assert labels == {"title a": log2(1 + 3.0), "title b": 0, "title c": 0}


def test_a_negative_gain_counts_as_none() -> None:
    data = dataset({"q": {"a": 0, "b": 3}})
    data = dataclasses.replace(data, grades={0: Grade("bad", -1.0), 3: Grade("good", 7.0)})
    assert sorted(make_lists(data, config())[0].labels) == [0, 3]


def test_long_lists_are_dealt_with_their_share_of_each_grade() -> None:
    data = dataset({"q": {f"p{i}": 3 if i < 4 else 0 for i in range(16)}})
    lists = make_lists(data, config(list_size=5))
    assert [len(one.documents) for one in lists] == [4] * 4  # ceil(16 / 5) lists
    assert [sorted(one.labels) for one in lists] == [[0, 0, 0, 3]] * 4


def test_listings_of_other_queries_stand_among_the_listings_with_gain_0() -> None:
    made = dataset({"q1": {"a": 3, "b": 0, "c": 2}, "q2": {"c": 3, "d": 1}, "q3": {"e": 2, "f": 2}})
    lists = make_lists(made, config(negatives=5, fields=("title",)))
    assert [one.query for one in lists] == ["text q1", "text q2", "text q3"]  # q3 has two gains with them
    assert dict(zip(lists[0].documents, lists[0].labels, strict=True)).items() >= {
        ("title a", 3.0),
        ("title b", 0.0),
        ("title c", 2.0),
    }
    others = set(lists[0].documents) - {"title a", "title b", "title c"}
    assert others <= {"title d", "title e", "title f"}
    assert others
    assert {label for text, label in zip(lists[0].documents, lists[0].labels, strict=True) if text in others} == {0.0}


def test_lists_that_teach_nothing_are_left_out() -> None:
    data = dataset({"equal": {"a": 3, "b": 3}, "one": {"a": 3}, "both": {"a": 3, "c": 0}})
    assert [one.query for one in make_lists(data, config())] == ["text both"]


@pytest.mark.parametrize("qrels", [{}, {"q": {"a": 0, "b": 0}}, {"q": {"a": 3}}])
def test_nothing_to_learn_from_is_said(qrels: dict[str, dict[str, int]]) -> None:
    with pytest.raises(InputError, match="has two listings of different gain"):
        make_lists(dataset(qrels, {"q": ["a"]} if not qrels else {}), config())


def test_only_train_queries_are_learnt_from() -> None:
    data = dataset({"q1": {"a": 0, "b": 3}, "q2": {"a": 3, "b": 0}})
    queries = [dataclasses.replace(data.queries[0], split="test"), data.queries[1]]
    assert [one.query for one in make_lists(dataclasses.replace(data, queries=queries), config())] == ["text q2"]


@settings(max_examples=100)
@given(
    st.lists(st.integers(0, 3), min_size=2, max_size=60).filter(lambda grades: len(set(grades)) > 1),
    st.integers(2, 25),
    st.integers(0, 3),
)
def test_lists_are_small_disjoint_and_reproducible(grades: list[int], size: int, seed: int) -> None:
    data = dataset({"q": {f"p{i}": grade for i, grade in enumerate(grades)}})
    made = make_lists(data, config(list_size=size, seed=seed, fields=("title",)))
    documents = [text for one in made for text in one.documents]
    assert len(documents) == len(set(documents)) <= len(grades)
    assert all(2 <= len(one.documents) <= size and len(set(one.labels)) > 1 for one in made)
    assert made == make_lists(data, config(list_size=size, seed=seed, fields=("title",)))


def test_the_fingerprint_changes_with_whatever_is_learnt_from() -> None:
    settings = config(fields=("title",))
    made = [
        make_lists(dataset({"q": {"a": 0, "b": 3}}), settings),
        make_lists(dataset({"q": {"a": 0, "b": 2}}), settings),
        make_lists(dataset({"q": {"a": 0, "c": 3}}), settings),
        make_lists(dataset({"r": {"a": 0, "b": 3}}), settings),
    ]
    assert len({fingerprint(lists) for lists in made}) == len(made)
    assert fingerprint(made[0]) == fingerprint(make_lists(dataset({"q": {"a": 0, "b": 3}}), settings))


# ---------------------------------------------------------------------------------------------------------------------
# Scores
# ---------------------------------------------------------------------------------------------------------------------


def test_scores_come_back_one_a_candidate_in_the_requests_order() -> None:
    baseline, model = scripted(a=1.0, b=-2.0, c=0.5)
    assert baseline.score([request("b", "a"), request("c")]) == [[-2.0, 1.0], [0.5]]
    assert model.pairs == [("q", "title b"), ("q", "title a"), ("q", "title c")]


def test_no_request_no_score_and_no_model() -> None:
    baseline, model = scripted()
    assert baseline.score([]) == []
    assert model.pairs == []


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_a_score_that_is_no_number_is_an_error(bad: float) -> None:
    with pytest.raises(OutputError, match=f"gave the score {bad}"):
        scripted(a=bad)[0].score([request("a", "b")])


def test_a_run_keeps_the_first_stages_order_of_equal_scores() -> None:
    asked = [request("b", "a", "c")]
    run = run_of(asked, scripted(c=1.0)[0].score(asked))
    assert list(run["q1"]) == ["c", "b", "a"]
    assert 1.0 == run["q1"]["c"] > 0.0 == run["q1"]["b"] > run["q1"]["a"]


# ---------------------------------------------------------------------------------------------------------------------
# The folder
# ---------------------------------------------------------------------------------------------------------------------


def saved(folder: Path, **changes: Any) -> Path:
    """A folder that looks like a trained cross-encoder up to the weights."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    manifest = {
        "format": FORMAT,
        "settings": config().model_dump(mode="json"),
        "files": {"config.json": hashlib.sha256(b"{}").hexdigest()},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest | changes), encoding="utf-8")
    return folder


def test_a_manifest_gives_the_settings_back(tmp_path: Path) -> None:
    assert read_manifest(saved(tmp_path))["settings"] == CrossEncoderSettings.model_validate(config().model_dump())


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ModelNotFoundError, match="train one with python -m eval"):
            CrossEncoderRanker.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "expected format 1, found 2"),
        ({"format": None}, "expected format 1, found None"),
        ({"settings": None}, "settings: "),
        ({"settings": {"dataset": "x"}}, "settings.fields: "),
        ({"files": None}, "expected 'files'"),
        ({"files": {}}, "expected 'files'"),
        ({"files": ["config.json"]}, "expected 'files'"),
    ],
)
def test_a_wrong_manifest_is_said(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        CrossEncoderRanker.load(saved(tmp_path, **changes))


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"\xff"])
def test_a_broken_manifest_is_said(text: bytes, tmp_path: Path) -> None:
    (saved(tmp_path) / MANIFEST).write_bytes(text)
    with pytest.raises(ModelError, match=MANIFEST):
        CrossEncoderRanker.load(tmp_path)


def test_a_damaged_folder_is_not_loaded(tmp_path: Path) -> None:
    (saved(tmp_path) / "config.json").write_text("{ }", encoding="utf-8")
    with pytest.raises(ChecksumError, match=r"config\.json is not the file that was saved; train it again"):
        CrossEncoderRanker.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ChecksumError, match=r"config\.json is missing; train it again"):
        CrossEncoderRanker.load(tmp_path)


def test_without_sentence_transformers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"genrank\[rankers\]"):
        CrossEncoderRanker.load(saved(tmp_path))


# ---------------------------------------------------------------------------------------------------------------------
# The program
# ---------------------------------------------------------------------------------------------------------------------


def test_training_never_overwrites_what_is_no_cross_encoder(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    for out in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(ConfigError, match="give another --out"):
            train(config(), sample_shop(), out)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_a_failed_training_leaves_nothing_and_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise ModelError("no such encoder")

    monkeypatch.setattr(cross_encoder, "resolve", fail)
    old = saved(tmp_path / "old")
    for out in (old, tmp_path / "new"):
        with pytest.raises(ModelError, match="no such encoder"):
            train(config(), sample_shop(), out)
    assert list(tmp_path.iterdir()) == [old]
    assert read_manifest(old)["settings"] == CrossEncoderSettings.model_validate(config().model_dump())


def configured(folder: Path, text: str = "dataset: sample-shop\nfields: [title]\n") -> str:
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return str(folder / "mine.yaml")


def test_rank_writes_a_run_and_one_json_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CrossEncoderRanker, "load", lambda folder: scripted()[0])
    run = tmp_path / "run.trec"
    assert main(["rank", "--config", configured(tmp_path), "--model", str(tmp_path / "m"), "-o", str(run)]) == 0
    line = json.loads(capsys.readouterr().out)
    written = read_run(run)
    shop = sample_shop()
    expected = {query.query.query_id: shop.request(query, 20) for query in shop.split("test")}
    assert line["queries"] == len(written) == len(expected)
    assert 0 < line["nDCG@10"] <= 1
    for query, request_ in expected.items():  # all scores are equal
        assert list(written[query]) == [candidate.listing.listing_id for candidate in request_.candidates]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["rank", "--split", "dew"], 2, "no query of"),
        (["rank"], 1, "train one with python -m eval"),
        (["train", "--out", "."], 2, "give another --out"),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_status(
    arguments: list[str],
    status: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--config", configured(tmp_path)]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_dataset_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", configured(tmp_path, f"dataset: {tmp_path}/none\n")]) == 2
    assert "no folder" in capsys.readouterr().err
