import contextlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from genrank.errors import DataFormatError, ModelError, ModelNotFoundError
from genrank.search.dense import Encoder, Vectors, cosine_scores, encoded_text
from genrank.types import Candidate, Listing, Query, Request


class LengthModel:
    """In place of sentence-transformers' model: a vector tells the text's length and kind."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.value = 1.0

    def encode_document(self, texts: list[str], **options: object) -> Vectors:
        self.asked += texts
        angles = np.array([len(text) for text in texts], dtype=np.float32)
        return (np.stack([np.cos(angles), np.sin(angles)], axis=1) * self.value).astype(np.float32)

    def encode_query(self, texts: list[str], **options: object) -> Vectors:
        return -self.encode_document(texts)

    def get_embedding_dimension(self) -> int:
        return 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    save_file({"weight": np.zeros(3, dtype=np.float32)}, path / "model.safetensors")
    return path


@pytest.fixture
def make(folder: Path, tmp_path: Path) -> Callable[[], tuple[Encoder, LengthModel]]:
    def build() -> tuple[Encoder, LengthModel]:
        encoder, model = Encoder(str(folder), tmp_path / "cache"), LengthModel()
        encoder.__dict__["_model"] = model
        return encoder, model

    return build


Make = Callable[[], tuple[Encoder, LengthModel]]


def test_vectors_come_in_the_order_of_the_texts(make: Make) -> None:
    texts = ["aaa", "b", "aaa", "cc"]
    vectors = make()[0].encode(texts)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[:, 0], np.cos([3, 1, 3, 2]), rtol=1e-6)


def test_each_text_is_computed_once_and_kept(make: Make) -> None:
    encoder, model = make()
    first = encoder.encode(["aaa", "b", "aaa"])
    assert model.asked == ["b", "aaa"]  # short ones first
    again, fresh = make()
    np.testing.assert_array_equal(again.encode(["aaa", "b", "aaa"]), first)
    assert fresh.asked == []


def test_a_query_is_not_taken_for_a_document(make: Make) -> None:
    encoder, _ = make()
    np.testing.assert_array_equal(encoder.encode(["a"], queries=True), -encoder.encode(["a"]))


def test_queries_are_not_kept(make: Make) -> None:
    encoder, model = make()
    np.testing.assert_array_equal(
        encoder.encode(["cc", "b", "cc"], queries=True), encoder.encode(["cc", "b", "cc"], queries=True)
    )
    assert model.asked == ["b", "cc"] * 2  # each once a call


def test_more_texts_than_are_saved_at_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrank.search.dense._SAVE_EVERY", 3)
    monkeypatch.setattr("genrank.search.dense._ASK_AT_ONCE", 2)
    texts = ["x" * i for i in range(10)]
    np.testing.assert_allclose(make()[0].encode(texts)[:, 1], np.sin(np.arange(10)), atol=1e-6)
    encoder, model = make()
    encoder.encode(texts)
    assert model.asked == []


def test_no_text(make: Make) -> None:
    assert make()[0].encode([]).shape == (0, 2)


def test_hostile_texts(make: Make) -> None:
    encoder, model = make()
    assert encoder.encode(["", "\ud800", "a\x00b\u202e", "x" * 100_000]).shape == (4, 2)
    assert all(text.isprintable() for text in model.asked)


def test_another_model_has_another_cache(make: Make, folder: Path) -> None:
    old, _ = make()
    save_file({"weight": np.ones(3, dtype=np.float32)}, folder / "model.safetensors")
    new, model = make()
    assert new.fingerprint != old.fingerprint
    old.encode(["a"])
    new.encode(["a"])
    assert model.asked == ["a"]


def test_what_says_nothing_of_the_vectors_does_not_change_the_fingerprint(make: Make, folder: Path) -> None:
    before = make()[0].fingerprint
    (folder / "README.md").write_text("hello")
    (folder / "genrank-model.json").write_text("{}")
    assert make()[0].fingerprint == before


def test_a_damaged_cache_is_named(make: Make, tmp_path: Path) -> None:
    encoder, _ = make()
    encoder.encode(["a"])
    (file,) = (tmp_path / "cache").glob("*.sqlite")
    file.write_bytes(b"no database at all" * 1000)
    with pytest.raises(DataFormatError, match="delete it"):
        encoder.encode(["a"])


def test_a_writer_that_was_stopped_leaves_nothing_half(make: Make, tmp_path: Path) -> None:
    encoder, _ = make()
    encoder.encode(["a"])
    (file,) = (tmp_path / "cache").glob("*.sqlite")
    with contextlib.closing(sqlite3.connect(file)) as writer:
        writer.execute("INSERT OR REPLACE INTO vectors VALUES (?, ?)", (b"k", b"half"))  # and no commit
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM vectors").fetchone() == (1,)


def test_many_writers_at_once(make: Make) -> None:
    texts = ["x" * i for i in range(50)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda encoder: encoder.encode(texts), [make()[0] for _ in range(8)]))
    for vectors in results:
        np.testing.assert_array_equal(vectors, results[0])


def test_vectors_that_are_not_finite(make: Make) -> None:
    encoder, model = make()
    model.value = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        encoder.encode(["a"])


def test_an_unknown_model() -> None:
    with pytest.raises(ModelNotFoundError):
        Encoder("./no-such-folder")


def test_a_folder_that_is_no_encoder(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(ModelError, match="cannot be loaded"):
        Encoder(str(folder), tmp_path / "cache").encode(["a"])


def test_encoded_text() -> None:
    listing = Listing(
        "l", "Lamp", description="d" * 600, brand="Acme", category=("Home", "Light"), attributes={"colour": "red"}
    )
    assert encoded_text(listing) == "Lamp Acme Home Light colour red " + "d" * 500
    assert encoded_text(Listing("l", "Lamp")) == "Lamp"


def test_cosine_scores(make: Make) -> None:
    encoder, _ = make()
    requests = [
        Request(Query("a"), (Candidate(Listing("1", "x")), Candidate(Listing("2", "yyy")))),
        Request(Query("bb"), (Candidate(Listing("1", "x")),)),
    ]
    expected = [[-np.cos(0), -np.cos(2)], [-np.cos(1)]]  # -1 for the kind, then the difference of the angles
    for row, values in zip(cosine_scores(encoder, requests), expected, strict=True):
        assert row == pytest.approx(values, abs=1e-6)
    assert cosine_scores(encoder, []) == []


class TestLoading:
    """A real encoder, as small as can be."""

    @pytest.fixture
    def tiny(self, tmp_path: Path) -> Path:
        pytest.importorskip("sentence_transformers", reason="get it with: pip install 'genrank[baseline]'")
        from tests.tiny_encoder import make_encoder

        return make_encoder(tmp_path / "tiny")

    def test_one_that_fits(self, tiny: Path, tmp_path: Path) -> None:
        vectors = Encoder(str(tiny), tmp_path / "cache").encode(["red dress", "blue mug", "red " * 1000])
        assert vectors.shape == (3, 16)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    def test_a_pooler_is_not_needed_and_a_head_does_no_harm(self, tiny: Path, tmp_path: Path) -> None:
        from safetensors.torch import load_file

        expected = Encoder(str(tiny), tmp_path / "cache").encode(["red"])
        weights = {name: w.numpy() for name, w in load_file(tiny / "model.safetensors").items() if "pooler" not in name}
        weights["cls.predictions.bias"] = np.zeros(9, dtype=np.float32)
        save_file(weights, tiny / "model.safetensors", {"format": "pt"})
        np.testing.assert_array_equal(Encoder(str(tiny), tmp_path / "cache").encode(["red"]), expected)

    def test_weights_that_are_missing_are_named(self, tiny: Path, tmp_path: Path) -> None:
        from safetensors.torch import load_file

        weights = {f"x.{name}": weight.numpy() for name, weight in load_file(tiny / "model.safetensors").items()}
        save_file(weights, tiny / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match=r"do not fit its config\.json; missing: 37 \("):
            Encoder(str(tiny), tmp_path / "cache").encode(["red"])

    def test_code_of_its_own_is_not_run(self, tiny: Path, tmp_path: Path) -> None:
        (tiny / "own.py").write_text("raise SystemExit")
        (tiny / "config.json").write_text(
            '{"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}'
        )
        with pytest.raises(ModelError, match="trust_remote_code=True"):
            Encoder(str(tiny), tmp_path / "cache").encode(["red"])

    def test_a_part_that_is_a_pickle_is_refused(self, tiny: Path, tmp_path: Path) -> None:
        (tiny / "2_Dense").mkdir()
        (tiny / "2_Dense" / "pytorch_model.bin").write_bytes(b"")
        with pytest.raises(ModelError, match=r"2_Dense/pytorch_model\.bin is a pickle"):
            Encoder(str(tiny), tmp_path / "cache").encode(["red"])
