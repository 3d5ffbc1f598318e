from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")

from eval.int8 import measure_int8
from genrank import Candidate, Listing, Query, Request
from tests.kept_rig import make_prompt, save_bytes_model


def test_both_formats_are_timed_and_weighed(tmp_path: Path) -> None:
    listings = [Listing(f"l{i}", f"Mug {i}") for i in range(3)]
    request = Request(Query("red mug"), tuple(Candidate(listing) for listing in listings))
    found = measure_int8(save_bytes_model(tmp_path), [request], 1, make_prompt())
    assert found["candidates"] == 3
    for dtype in ("auto", "int8"):
        assert 0 < found[dtype]["warm_ms"][0] < found[dtype]["cold_ms"][0] * 2
        loaded, most = found[dtype]["memory_mib"]
        assert 100 < loaded <= most
    for step in ("cold", "warm", "reasons"):
        median, least, greatest = found[f"auto_over_int8_{step}"]
        assert least <= median <= greatest
