"""What is read of a model's folder without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")
safetensors = pytest.importorskip("safetensors.numpy", reason="get it with: pip install 'genrank[transformers]'")

from genrank.errors import ModelError  # noqa: E402
from genrank.models.weights import (  # noqa: E402
    INDEX,
    check_files,
    model_fingerprint,
    named,
    read_header,
    reading,
    weight_files,
    weights_fingerprint,
)

WEIGHTS = "model.safetensors"
TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.ones(4, dtype=np.float16),
    "c": np.zeros((0, 5), dtype=np.float32),
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fingerprints are kept where no other test sees them."""
    monkeypatch.setenv("GENRANK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def save(folder: Path, tensors: dict[str, Any] = TENSORS, **metadata: str) -> Path:
    folder.mkdir(exist_ok=True)
    safetensors.save_file(tensors, folder / WEIGHTS, metadata or None)
    (folder / "config.json").write_text("{}")
    return folder


def save_in_parts(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    parts = {name: f"part-{name}.safetensors" for name in TENSORS}
    for name, file in parts.items():
        safetensors.save_file({name: TENSORS[name]}, folder / file)
    (folder / INDEX).write_text(json.dumps({"weight_map": parts}))
    return folder


def test_import_is_light() -> None:
    heavy = "{'torch', 'transformers', 'huggingface_hub', 'rich', 'numpy', 'safetensors'}"
    code = f"import sys, genrank.models.weights; print({heavy} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_a_header_is_what_the_library_reads(tmp_path: Path) -> None:
    found = read_header(save(tmp_path / "m", format="pt") / WEIGHTS)
    assert {name: tensor.shape for name, tensor in found.items()} == {"a": (2, 3), "b": (4,), "c": (0, 5)}
    assert {name: tensor.dtype for name, tensor in found.items()} == {"a": "F32", "b": "F16", "c": "F32"}
    content = (tmp_path / "m" / WEIGHTS).read_bytes()
    assert content[found["a"].start : found["a"].stop] == TENSORS["a"].tobytes()


class TestFingerprint:
    def test_it_says_what_the_weights_are_and_nothing_else(self, tmp_path: Path) -> None:
        one = weights_fingerprint(save(tmp_path / "one"))
        two = save(tmp_path / "two", format="pt", made="2026-11-28")
        for name in ("genrank-model.json", "README.md", "tokenizer.json"):
            (two / name).write_text('{"created": "2026-11-28"}')
        assert weights_fingerprint(two) == one
        assert weights_fingerprint(save_in_parts(tmp_path / "three")) == one

    @pytest.mark.parametrize(
        "other",
        [
            {"a": TENSORS["a"] + 1},
            {"a": TENSORS["a"].reshape(3, 2)},
            {"b": TENSORS["b"].view(np.int16)},
            {"d": TENSORS["b"]},
        ],
        ids=["bytes", "shape", "dtype", "one more"],
    )
    def test_it_changes_with_every_tensor(self, tmp_path: Path, other: dict[str, Any]) -> None:
        assert weights_fingerprint(save(tmp_path / "one")) != weights_fingerprint(
            save(tmp_path / "two", TENSORS | other)
        )

    def test_a_name_belongs_to_it(self, tmp_path: Path) -> None:
        renamed = {f"x.{name}": tensor for name, tensor in TENSORS.items()}
        assert weights_fingerprint(save(tmp_path / "one")) != weights_fingerprint(save(tmp_path / "two", renamed))

    def test_what_is_kept_is_not_used_for_other_weights_in_the_same_place(self, tmp_path: Path, home: Path) -> None:
        folder = save(tmp_path / "m")
        first = weights_fingerprint(folder)
        assert len(list((home / "fingerprints").iterdir())) == 1
        assert weights_fingerprint(folder) == first
        save(folder, TENSORS | {"a": TENSORS["a"] + 1})
        second = weights_fingerprint(folder)
        assert second != first
        save(folder)
        assert weights_fingerprint(folder) == first

    def test_a_home_that_cannot_be_written_is_no_error(self, tmp_path: Path, home: Path) -> None:
        home.write_text("a file")
        weights_fingerprint(save(tmp_path / "m"))

    def test_of_a_model_it_is_the_same_after_another_download(self, tmp_path: Path) -> None:
        one, two = save(tmp_path / "one"), save(tmp_path / "two")
        (one / "genrank-model.json").write_text('{"created": "2026-11-28"}')
        (two / "genrank-model.json").write_text('{"created": "2027-01-01"}')
        (two / "README.md").write_text("words")
        (two / ".gitattributes").write_text("words")
        assert model_fingerprint(one) == model_fingerprint(two)
        for file in ("tokenizer.json", "chat_template.jinja", "1_Pooling/config.json", "2_Dense/model.safetensors"):
            before = model_fingerprint(two)
            (two / file).parent.mkdir(exist_ok=True)
            (two / file).write_text("{}")
            assert model_fingerprint(two) != before


class TestBrokenFiles:
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "is empty"),
            (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not the weights"),
            (b"<html>", "is not a safetensors file"),
            (b"\x80\x02}q\x00.", "is not a safetensors file"),
            (b"PK\x03\x04" + bytes(60), "is not a safetensors file"),
            ((2).to_bytes(8, "little") + b"{}", "holds no tensor"),
            ((2).to_bytes(8, "little") + b"{]", "its header is broken"),
            ((8).to_bytes(8, "little") + b'{"a": 3}', "its header is broken"),
            ((99).to_bytes(8, "little") + b'{"a": 3}', "is cut off: 16 bytes, its header alone has 99"),
        ],
    )
    def test_the_file_is_named(self, tmp_path: Path, content: bytes, words: str) -> None:
        (tmp_path / WEIGHTS).write_bytes(content)
        with pytest.raises(ModelError) as caught:
            read_header(tmp_path / WEIGHTS)
        assert words in str(caught.value)
        assert str(tmp_path / WEIGHTS) in str(caught.value)

    def test_every_cut_is_seen(self, tmp_path: Path) -> None:
        content = (save(tmp_path) / WEIGHTS).read_bytes()
        for length in range(len(content)):
            (tmp_path / WEIGHTS).write_bytes(content[:length])
            with pytest.raises(ModelError):
                read_header(tmp_path / WEIGHTS)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"none\.safetensors cannot be read: No such file"):
            read_header(tmp_path / "none.safetensors")

    def test_shards_that_are_missing(self, tmp_path: Path) -> None:
        folder = save_in_parts(tmp_path / "m")
        (folder / "part-a.safetensors").unlink()
        with pytest.raises(ModelError, match=r"names 1 of 3 files that are missing, such as part-a\.safetensors"):
            weight_files(folder)

    @pytest.mark.parametrize("index", ["{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight_map": null}'])
    def test_an_index_that_is_none(self, tmp_path: Path, index: str) -> None:
        (tmp_path / INDEX).write_text(index)
        with pytest.raises(ModelError, match="has no weight_map"):
            weight_files(tmp_path)

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth"])
    def test_pickles(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ModelError, match=rf"only as pickles \({name}\).*save them as model\.safetensors"):
            weight_files(tmp_path)

    def test_an_adapter_s_weights_are_no_model(self, tmp_path: Path) -> None:
        (tmp_path / "adapter_model.safetensors").write_bytes(b"")
        with pytest.raises(ModelError, match="holds no weights"):
            weight_files(tmp_path)

    @pytest.mark.parametrize("form", ["%s", '{"text_config": %s}'])
    def test_more_layers_than_tensors(self, tmp_path: Path, form: str) -> None:
        (save(tmp_path) / "config.json").write_text(form % '{"num_hidden_layers": 1e9}')
        with pytest.raises(ModelError, match=r"num_hidden_layers is 1000000000\.0, and the weights have 3 tensors"):
            check_files(tmp_path)


def test_what_a_library_says_becomes_one_line() -> None:
    with (
        pytest.raises(ModelError, match=r"^m cannot be loaded \(KeyError: 'a b'\); correct it, or download it again$"),
        reading("m"),
    ):
        raise KeyError("a b")
    with pytest.raises(ModelError, match=r"^m cannot be loaded \(OSError: one two\); correct"), reading("m"):
        raise OSError("one\n\n  two")
    with pytest.raises(ModelError, match=r"^kept$"), reading("m"):
        raise ModelError("kept")


def test_keys_are_counted_and_the_first_few_named() -> None:
    assert named(["b", "a"]) == "2 (a, b)"
    assert named(list("dcba")) == "4 (a, b, c, ...)"
