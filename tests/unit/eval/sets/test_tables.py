import gzip
from pathlib import Path

import pytest

from eval.sets.tables import find_file, read_csv
from genrank.errors import DataFormatError

GOOD = 'a,b\n1,"two\nlines, ""quoted"""\n3,4\n'
ROWS = [(3, {"a": "1", "b": 'two\nlines, "quoted"'}), (4, {"a": "3", "b": "4"})]


def test_plain_and_packed(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\ufeff" + GOOD, encoding="utf-8")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(GOOD.encode()))
    assert list(read_csv(tmp_path / "t.csv", ["a", "b"])) == ROWS
    assert list(read_csv(tmp_path / "t.csv.gz", ["b"])) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", b"", r"t\.csv: expected a header line, found an empty file"),
        ("t.csv", b"a,b\n", "a header alone"),
        ("t.csv", b"a,c\n1,2\n", r"t\.csv:1: expected the columns a, b, found no b in \['a', 'c'\]"),
        ("t.csv", b"a,b\n1,2\n1\n", r"t\.csv:3: expected 2 fields, found 1"),
        ("t.csv", b'a,b\n1,"x', "CSV"),
        ("t.csv", b"a,b\n1,\xff\n", "UTF-8"),
        ("t.csv", GOOD.encode("utf-16"), "expected UTF-8 text, found UTF-16; save it as UTF-8"),
        ("t.csv", GOOD.encode("utf-16-le"), "expected UTF-8 text, found UTF-16; save it as UTF-8"),
        (
            "t.csv.gz",
            gzip.compress(GOOD.encode("utf-16"), mtime=0),
            "expected UTF-8 text, found UTF-16; save it as UTF-8",
        ),
        ("t.csv", b"\x89PNG\r\n\x1a\n\x00", "UTF-8"),
        ("t.csv.gz", b"a,b\n1,2\n", "gzip"),
        ("t.csv.gz", gzip.compress(GOOD.encode() * 99, mtime=0)[:-20], "gzip"),  # the test is named by these bytes
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataFormatError, match=words):
        list(read_csv(tmp_path / name, ["a", "b"]))


def test_find_file(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match=r"x\.csv or y\.csv"):
        find_file(tmp_path, ("x.csv", "y.csv"))
    (tmp_path / "y.csv").touch()
    assert find_file(tmp_path, ("x.csv", "y.csv")) == find_file(tmp_path / "y.csv", ()) == tmp_path / "y.csv"
    with pytest.raises(DataFormatError, match="nothing there"):
        find_file(tmp_path / "none", ())
