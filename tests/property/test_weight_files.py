"""Whatever a file of weights holds, reading its header gives tensors or one line that names the file."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from genrank.errors import ModelError
from genrank.models.weights import read_header

NUMBERS = st.one_of(st.integers(-2, 50), st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=3))
ENTRIES = st.one_of(
    st.fixed_dictionaries(
        {"dtype": st.sampled_from(["F32", "BF16", 3]), "shape": st.lists(NUMBERS, max_size=3)},
        optional={"data_offsets": st.one_of(st.lists(NUMBERS, max_size=3), NUMBERS)},
    ),
    NUMBERS,
)
HEADERS = st.one_of(st.dictionaries(st.text(max_size=5), ENTRIES, max_size=4), st.lists(NUMBERS, max_size=2), NUMBERS)


def read(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        file.write_bytes(content)
        try:
            tensors = read_header(file)
        except ModelError as error:
            assert str(file) in str(error)
            assert "\n" not in str(error)
        else:
            assert all(0 <= tensor.start <= tensor.stop <= len(content) for tensor in tensors.values())


@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    read(content)


@given(HEADERS, st.binary(max_size=60), st.integers(-3, 3))
def test_any_header(header: Any, rest: bytes, off: int) -> None:
    text = json.dumps(header).encode()
    read(max(0, len(text) + off).to_bytes(8, "little") + text + rest)
