from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")

from genrank.engines.heads import Head, key_of  # noqa: E402
from genrank.engines.snapshots import Snapshot, SnapshotWriter, differs  # noqa: E402
from genrank.errors import ConfigError, DataFormatError, EngineError  # noqa: E402

BOUND = {"model": "abc", "prompt": "def"}


def heads(dtype: object = torch.bfloat16) -> dict[tuple[int, ...], Head]:
    torch.manual_seed(0)
    lead = torch.randn(2, 8).to(torch.bfloat16)

    def rest(tokens: int) -> Any:
        return torch.randint(-100, 100, (tokens, 8)).to(dtype)

    return {
        (1, 2, 3): Head(lead, rest(1), 3),
        (1, 2, 70_000, 5): Head(lead, rest(4), 4, (8, 9)),
        (5,): Head(None, rest(1), 1),
    }


def write(path: Path, made: dict[tuple[int, ...], Head]) -> Path:
    with SnapshotWriter(path, BOUND) as writer:
        for ids, head in made.items():
            writer.add(key_of(ids), head)
            writer.add(key_of(ids), head)
    return path


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int8], ids=str)
def test_a_snapshot_gives_back_what_was_written(dtype: object, tmp_path: Path) -> None:
    made = heads(dtype)
    path = write(tmp_path / "s", made)
    assert differs(path, BOUND) == []
    snapshot = Snapshot(path, BOUND)
    assert len(snapshot) == len(made)
    for ids, head in made.items():
        found = snapshot.find(key_of(ids))
        assert found
        assert (found.tokens, found.opening) == (head.tokens, head.opening)
        assert torch.equal(found.rest, head.rest)
        assert (found.lead is None) if head.lead is None else torch.equal(found.lead, head.lead)
    assert snapshot.find(key_of((1, 2))) is None
    assert list(snapshot.leads()) == [key_of((1, 2))]


def test_an_empty_snapshot(tmp_path: Path) -> None:
    assert len(Snapshot(write(tmp_path / "s", {}), BOUND)) == 0


def test_a_snapshot_of_something_else_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s", heads())
    other = BOUND | {"prompt": "other", "adapter": "new"}
    assert differs(path, other) == ["prompt", "adapter"]
    with pytest.raises(ConfigError, match=r"was made with another prompt, adapter, .*warm again"):
        Snapshot(path, other)
    with pytest.raises(ConfigError, match=r"there is no snapshot .*genrank warm"):
        Snapshot(tmp_path / "none", BOUND)


def test_a_damaged_snapshot_is_an_error_wherever_it_is_damaged(tmp_path: Path) -> None:
    path = write(tmp_path / "s", heads())
    whole = path.read_bytes()
    for size in (0, 5, 100, 4095, 4096, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DataFormatError, match=r"expected a snapshot .*delete it, and warm again"):
            Snapshot(path, BOUND)
    noticed = 0
    for place in range(4096, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            snapshot = Snapshot(path, BOUND)
            for key in snapshot.keys():  # noqa: SIM118 - no dictionary
                snapshot.head(key)
        except (DataFormatError, EngineError) as error:
            noticed += "delete it, and warm again" in str(error)
    assert noticed == len(whole) - 4096


def test_a_failed_writing_leaves_no_snapshot(tmp_path: Path) -> None:
    with contextlib.suppress(ZeroDivisionError), SnapshotWriter(tmp_path / "s", BOUND) as writer:
        writer.add(key_of((1, 2, 3)), heads()[1, 2, 3])
        raise ZeroDivisionError
    with pytest.raises(DataFormatError):
        Snapshot(tmp_path / "s", BOUND)
