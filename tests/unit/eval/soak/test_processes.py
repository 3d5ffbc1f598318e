from __future__ import annotations

from eval.soak.processes import memory_mib, open_files


def test_what_is_not_there_has_no_memory() -> None:
    gone = 1 << 30
    assert (memory_mib(gone), open_files(gone)) == (None, None)
