from pathlib import Path

import pytest

from genrank.errors import DataFormatError
from genrank.experiment.beir import is_beir, read_beir
from genrank.types import Listing
from tests.collections_rig import write_beir


def test_reads_a_folder(tmp_path: Path) -> None:
    dataset = read_beir(write_beir(tmp_path / "lamps"))
    assert dataset.name == "lamps"
    assert {q.query.query_id: (q.query.text, q.split) for q in dataset.queries} == {
        "q1": ("red lamp", "test"),
        "q2": ("desk of oak", "test"),
        "q3": ("blue glass", "train"),
        "q4": ("pine", "dev"),
    }
    assert dataset.qrels["q2"] == {"d3": 1, "d4": 2}
    assert {grade: meaning.gain for grade, meaning in dataset.grades.items()} == {0: 0.0, 1: 1.0, 2: 2.0}
    assert dataset.listings["d1"] == Listing(
        "d1", "Red lamp", "A lamp of red glass.", brand="Acme", attributes={"watts": "40"}
    )
    assert dataset.listings["d3"].title == "An oak desk that needs no title."
    assert "d5" in dataset.listings
    assert "d6" not in dataset.listings
    assert list(dataset.listings) == [listing.listing_id for listing in dataset.listings.values()]
    assert dataset.candidates == {}


def test_only_what_is_looked_up_is_kept(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "lamps")
    dataset = read_beir(folder)
    corpus = (folder / "corpus.jsonl").read_text(encoding="utf-8")
    (folder / "corpus.jsonl").write_text(corpus.replace("Pine desk", "Fine desk"), encoding="utf-8")
    assert dataset.listings["d4"].title == "Fine desk"  # it was not read before
    assert "d4" in dataset.listings


def test_a_dataset_folder_is_none(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "lamps")
    assert is_beir(folder)
    (folder / "dataset.toml").touch()
    assert not is_beir(folder)
    assert not is_beir(tmp_path)


def test_grades_below_0_and_unknown_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_beir(tmp_path / "lamps")
    with (folder / "qrels" / "test.tsv").open("a", encoding="utf-8") as out:
        out.write("q2\td1\t-1\nq2\td77\t1\r\n")
    assert read_beir(folder).qrels["q2"] == {"d3": 1, "d4": 2, "d1": 0}
    assert "1 judgements of documents that corpus.jsonl lacks are left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("corpus.jsonl", '{"_id": "d1", "text": "again"}', r"corpus.jsonl:6: .*'d1' again"),
        ("corpus.jsonl", '{"_id": 7, "text": ""}', r"corpus.jsonl:6: expected _id as text, found 7"),
        ("corpus.jsonl", "{", r"corpus.jsonl:6: expected one JSON object"),
        ("corpus.jsonl", "[]", r"corpus.jsonl:6: expected one JSON object, found list"),
        ("queries.jsonl", '{"_id": "q7", "text": " "}', r"queries.jsonl:6: expected a query, found"),
        ("queries.jsonl", '{"_id": "q1", "text": "x"}', r"queries.jsonl:6: .*'q1' again"),
        ("qrels/test.tsv", "q1\td1", r"test.tsv:7: expected query-id, corpus-id and a whole-number score"),
        ("qrels/test.tsv", "q1\td1\tmuch", r"test.tsv:7: expected query-id, corpus-id and a whole-number score"),
        ("qrels/test.tsv", "q1\td1\t1", r"test.tsv:7: .*'d1' again"),
        ("qrels/test.tsv", "q77\td1\t1", r"test.tsv:7: expected only query ids of queries.jsonl, found 'q77'"),
        (
            "qrels/train.tsv",
            "q1\td1\t1",
            r"train.tsv:4: expected each query in one split, found .q1., which is in test.tsv too",
        ),
    ],
)
def test_broken_lines_are_named(file: str, line: str, message: str, tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "lamps")
    with (folder / file).open("a", encoding="utf-8") as out:
        out.write(line + "\n")
    with pytest.raises(DataFormatError, match=message):
        read_beir(folder)


def test_no_qrels(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "lamps")
    for file in (folder / "qrels").iterdir():
        file.unlink()
    with pytest.raises(DataFormatError, match=r"qrels: expected a file for each split, such as test.tsv, found none"):
        read_beir(folder)
