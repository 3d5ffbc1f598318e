from pathlib import Path

import pytest

from genrank.errors import ConfigError
from genrank.experiment.ir_datasets import read_ir_dataset, scored_documents, split_of_name
from tests.collections_rig import register

pytest.importorskip("ir_datasets")


def test_reads_a_dataset(tmp_path: Path) -> None:
    name = register(tmp_path / "lamps", "test")
    dataset = read_ir_dataset(name)
    assert dataset.name == name
    assert {q.query.query_id: (q.query.text, q.split) for q in dataset.queries} == {
        "q1": ("red lamp", "test"),
        "q2": ("desk of oak", "test"),
    }
    assert dataset.qrels == {"q1": {"d1": 2, "d2": 1, "d3": 0}, "q2": {"d3": 1, "d4": 2}}
    assert {g: (meaning.label, meaning.gain) for g, meaning in dataset.grades.items()} == {
        0: ("wrong", 0.0),
        1: ("partly", 1.0),
        2: ("right", 2.0),
    }


def test_documents(tmp_path: Path) -> None:
    documents = read_ir_dataset(register(tmp_path / "lamps", "train")).listings
    assert list((tmp_path / "lamps").glob("*.pklz4")) == []  # nothing has read a document yet
    listing = documents["d1"]
    assert (listing.title, listing.description, listing.brand) == ("Red lamp", "A lamp of red glass.", "Acme")
    assert listing.attributes == {"watts": "40"}
    assert documents["d5"].title == "d5"
    assert documents.get("d6") is None
    assert "d6" not in documents
    assert len(documents) == len(list(documents.values())) == 5


def test_scored_documents(tmp_path: Path) -> None:
    dataset = read_ir_dataset(register(tmp_path / "lamps", "test", scored=True))
    assert scored_documents(dataset, 2) == {"q1": {"d2": 3.0, "d1": 2.0}, "q2": {"d4": 2.5, "d3": 1.5}}
    bare = read_ir_dataset(register(tmp_path / "others", "test"))
    with pytest.raises(ConfigError, match=r"first_stage: ir_datasets has no scoreddocs of .*; name bm25 or a TREC run"):
        scored_documents(bare, 2)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dataset: ir_datasets has no 'beir/scifacts/test'"):
        read_ir_dataset("beir/scifacts/test")
    with pytest.raises(ConfigError, match=r"ir_datasets:beir/scifact has no qrels; name .*beir/scifact/test"):
        read_ir_dataset("beir/scifact")
    name = register(tmp_path / "lamps", "test")
    (tmp_path / "lamps" / "queries.jsonl").unlink()
    with pytest.raises(ConfigError, match=f"dataset: ir_datasets could not read {name}: .*queries.jsonl"):
        read_ir_dataset(name)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("beir/scifact/test", "test"),
        ("beir/nfcorpus/train", "train"),
        ("msmarco-passage/dev/judged", "dev"),
        ("msmarco-document-v2/dev1", "dev"),
        ("wikir/en1k/validation", "dev"),
        ("msmarco-passage/trec-dl-2019", "test"),
        ("vaswani", "test"),
    ],
)
def test_the_split_of_a_name(name: str, split: str) -> None:
    assert split_of_name(name) == split
