from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from pathlib import Path

import pytest

from genrank.files import (
    files_fingerprint,
    fingerprint,
    raise_if_full,
    read_text,
    sha256_of,
    sync,
    wide_encoding,
    write_atomically,
    write_folder_atomically,
)
from tests.small_wheels import Log


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("one", "two"):
        with write_atomically(path) as part:
            part.write_text(text, encoding="utf-8")
            assert part.parent == tmp_path
        assert path.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_old_file_stands(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("old", encoding="utf-8")

    def fail(part: Path) -> None:
        part.write_text("half", encoding="utf-8")
        raise error

    with pytest.raises(error), write_atomically(path) as part:
        fail(part)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_the_old_file_or_else_the_usual_ones(tmp_path: Path) -> None:
    path, plain = tmp_path / "x", tmp_path / "plain"
    plain.touch()
    with write_atomically(path) as part:
        part.write_text("one", encoding="utf-8")
    assert path.stat().st_mode == plain.stat().st_mode
    for mode in (0o640, 0o400):
        path.chmod(mode)
        with write_atomically(path) as part:
            part.write_text("two", encoding="utf-8")
        assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_points_to_is_written(there: bool, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    target, link = tmp_path / "store" / "x", tmp_path / "link"
    link.symlink_to(target)
    if there:
        target.write_text("old", encoding="utf-8")
    with write_atomically(link) as part:
        part.write_text("new", encoding="utf-8")
    assert link.is_symlink()
    assert target.read_text(encoding="utf-8") == "new"
    assert [path.name for path in target.parent.iterdir()] == ["x"]


def test_what_is_no_regular_file_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text(encoding="utf-8")))
    reader.start()
    with write_atomically(tmp_path / "pipe") as part:
        part.write_text("through", encoding="utf-8")
    reader.join(10)
    assert read == ["through"]


@pytest.mark.parametrize("place", ["missing/x", "folder"])
def test_a_place_that_cannot_be_written_is_an_os_error(place: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"No such file|Is a directory"), write_atomically(tmp_path / place):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_long_name_is_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    with write_atomically(path) as part:
        part.write_text("text", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "text"


def test_of_many_writers_one_wins_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"

    def write(letter: str) -> None:
        for _ in range(20):
            with write_atomically(path) as part:
                part.write_text(letter * 10_000, encoding="utf-8")

    writers = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        while writer.is_alive():
            if path.exists():
                text = path.read_text(encoding="utf-8")
                assert text == text[0] * 10_000
        writer.join()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("lead", [b"", b"\xef\xbb\xbf"])
def test_a_text_is_read_without_its_mark_and_with_plain_line_breaks(lead: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(lead + "连\r\n衣\r裙\n".encode())
    assert read_text(tmp_path / "x") == "连\n衣\n裙\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name".encode("utf-16"), "UTF-16 in place of UTF-8 text; save it as UTF-8"),
        ("name".encode("utf-16-le"), "UTF-16 in place of UTF-8 text; save it as UTF-8"),
        ("name".encode("utf-16-be"), "UTF-16 in place of UTF-8 text; save it as UTF-8"),
        ("name".encode("utf-32"), "UTF-32 in place of UTF-8 text; save it as UTF-8"),
        (b"ab\xffcd", r"text that is not UTF-8: the byte 0xff \(is this a binary file\?\)"),
        (b"\xef\xbb\xbfab\xfe", "text that is not UTF-8: the byte 0xfe"),
    ],
)
def test_what_is_no_utf_8_is_told(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=f"^{message}"):
        read_text(tmp_path / "x")


@pytest.mark.parametrize("text", ["", "a", "ab", "连衣裙", "\ufeffabc", "a\0"])
def test_utf_8_is_not_taken_for_another_encoding(text: str) -> None:
    assert not wide_encoding(text.encode())


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for name in ("one", "two"):
        with write_folder_atomically(folder) as part:
            (part / name).touch()
        assert [path.name for path in folder.iterdir()] == [name]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_old_folder_stands(error: type[BaseException], tmp_path: Path) -> None:
    def fail(part: Path) -> None:
        (part / "half").touch()
        raise error

    for old in ([], ["old"]):
        folder = tmp_path / "set"
        for name in old:
            folder.mkdir()
            (folder / name).touch()
        with pytest.raises(error), write_folder_atomically(folder) as part:
            fail(part)
        assert [path.name for path in folder.glob("*")] == old
        assert [path.name for path in tmp_path.iterdir()] == (["set"] if old else [])


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "old").touch()

    with pytest.raises(FileNotFoundError), write_folder_atomically(folder) as part:
        part.rmdir()
    assert [path.name for path in folder.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_file_s_hash_and_its_progress(tmp_path: Path) -> None:
    content = b"x" * (3 << 20)
    (tmp_path / "file").write_bytes(content)
    log = Log()
    log.start("hash", len(content))
    assert sha256_of(tmp_path / "file", log) == hashlib.sha256(content).hexdigest()
    assert log.bytes == [len(content)]


def test_a_value_s_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})


def test_a_folder_s_fingerprint_is_of_names_and_contents_but_not_of_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    before = files_fingerprint(tmp_path)
    (tmp_path / ".hidden").write_text("x")
    assert files_fingerprint(tmp_path) == before
    (tmp_path / "a").rename(tmp_path / "b")
    assert files_fingerprint(tmp_path) != before
    assert files_fingerprint(tmp_path / "b") == sha256_of(tmp_path / "b")


def test_a_full_disk_is_an_error_of_the_system_whoever_met_it(tmp_path: Path) -> None:
    raise_if_full("something else", tmp_path)
    with pytest.raises(OSError, match=str(tmp_path)) as caught:
        raise_if_full(f"tar: {os.strerror(errno.ENOSPC)}", tmp_path)
    assert caught.value.errno == errno.ENOSPC


def test_files_and_folders_are_written_through(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    sync(tmp_path / "file")
    sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "none")


def test_several_byte_order_marks_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbf\xef\xbb\xbfname\r\n")
    assert read_text(path) == "name\n"
