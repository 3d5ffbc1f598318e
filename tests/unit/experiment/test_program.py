import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genrank.errors import ConfigError, DataFormatError, EngineError, InputError
from genrank.experiment.program import exit_status
from genrank.progress import track


def raising(error: BaseException) -> Any:
    def body() -> None:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("bad", field="f"), 2),
        (ConfigError("bad"), 2),
        (DataFormatError("p", 3, "x", "y"), 1),
        (EngineError("two\nlines"), 1),
        (FileNotFoundError(2, "No such file", "p"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_status(error: BaseException, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(raising(error)) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_status(raising(ZeroDivisionError()))


def test_well() -> None:
    assert exit_status(lambda: None) == 0


def test_track_is_silent_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([1, 2], "words")) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    program = "from genrank.experiment.program import exit_status; raise SystemExit(exit_status(lambda: print('x')))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "error: [Errno 28] No space left on device\n")
