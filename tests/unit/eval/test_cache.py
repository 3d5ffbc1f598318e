from pathlib import Path

import pytest

from eval.cache import Entry, StoredResult
from genrank.files import files_fingerprint, fingerprint
from genrank.types import Listing, Provenance, RankedItem, Ranking, Tokens


def ranking(query_id: str = "q1", outcome: str = "model") -> Ranking:
    first, second = Listing("a", "red lamp"), Listing("b", "blue lamp")
    items = (RankedItem(first, 1, 0.5, 2, "It fits.", ("title",)), RankedItem(second, 2, 0.25, 1))
    provenance = Provenance(model="m", outcome=outcome, tokens=Tokens(3, 2, 1), cuts={"query": 1})  # type: ignore[arg-type]
    return Ranking(query_id, items, provenance)


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    kept = StoredResult([[1.0, 2.0]], [[0.1, 0.2]], [ranking()], 1.5, 0.5, {"missing": 1})
    entry = Entry(tmp_path, "k")
    with entry.locked():
        assert entry.read() is None
        entry.append([ranking()], 1.0)
        entry.write(kept)
        assert entry.read() == kept
        assert not entry.finished()


def test_a_fallback_is_never_kept(tmp_path: Path) -> None:
    entry = Entry(tmp_path, "k")
    with entry.locked():
        entry.append([ranking("q1"), ranking("q2", "fallback")], 1.0)
        entry.write(StoredResult([[1.0], [1.0]], None, [ranking("q1"), ranking("q2", "fallback")]))
        assert entry.read() is None
        assert entry.finished() == {"q1": (ranking("q1"), 0.5)}


def test_of_a_listing_only_its_id_and_title_are_kept(tmp_path: Path) -> None:
    entry = Entry(tmp_path, "k")
    whole = Ranking("q1", (RankedItem(Listing("a", "red lamp", description="long", brand="Acme"), 1, 0.5, 1),))
    with entry.locked():
        entry.write(StoredResult([[1.0]], None, [whole]))
        kept = entry.read()
    assert kept
    assert [item.listing for item in kept.rankings[0]] == [Listing("a", "red lamp")]
    assert kept.rankings[0].to_dict() == whole.to_dict()


@pytest.mark.parametrize(
    "torn",
    [
        b'\n{"key": "q2", "seconds": 0.5, "ranking": {"query_id": "q2", "items": [{"li',
        b'\n{"key": "q2", "seconds": 0.5, "ranking": {"query_id": "q2"}}',
        b'\n{"key": "q2", "ranking": 1}',
        b"\n\xff\xfe",
        b"\n{}",
    ],
)
def test_a_torn_line_costs_only_itself(tmp_path: Path, torn: bytes) -> None:
    entry = Entry(tmp_path, "k")
    with entry.locked():
        entry.append([ranking("q1")], 1.0)
        with (tmp_path / "k" / "part.jsonl").open("ab") as out:
            out.write(torn)
        entry.append([ranking("q3")], 2.0)
        assert Entry(tmp_path, "k").finished() == {"q1": (ranking("q1"), 1.0), "q3": (ranking("q3"), 2.0)}


def test_a_damaged_answer_is_none(tmp_path: Path) -> None:
    entry = Entry(tmp_path, "k")
    with entry.locked():
        (tmp_path / "k" / "answer.json").write_text('{"scores": [[1.0', encoding="utf-8")
        assert entry.read() is None


def test_files_differ_by_name_and_content(tmp_path: Path) -> None:
    def of(**files: str) -> str:
        folder = tmp_path / fingerprint(files)
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        return files_fingerprint(folder)

    assert len({of(a="x"), of(a="y"), of(b="x"), of(a="x", b="")}) == 4
    assert of(a="x", b="y") == files_fingerprint(tmp_path / fingerprint({"a": "x", "b": "y"}))
    (tmp_path / "one").write_text("x", encoding="utf-8")
    assert files_fingerprint(tmp_path / "one") != files_fingerprint(tmp_path)
