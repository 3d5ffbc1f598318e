from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genrank import adapters
from genrank.adapters import (
    FILE,
    Manifest,
    Served,
    TrainedPrompt,
    best_served,
    demo_adapter,
    load_manifest,
    merge_values,
    save_manifest,
)
from genrank.blending import Blend, save_blend
from genrank.calibration import Calibration, load_calibration, save_calibration
from genrank.errors import ConfigError
from genrank.prompting.template import load_template
from genrank.reranker import Reranker
from genrank.testing import OracleEngine

INLINE = load_template("inline-lean")
SHIPPED = sorted(file.parent.name for file in (Path(adapters.__file__).parent / "data" / "adapters").glob(f"*/{FILE}"))


def manifest(**changes: Any) -> Manifest:
    prompts = {"inline": TrainedPrompt(name=INLINE.name, hash=INLINE.digest)}
    return Manifest(**{"base_model": "tiny", "base_weights": "abc", "prompts": prompts} | changes)


class Adapted(OracleEngine):
    """An engine that says that it runs the adapter of a folder."""

    def __init__(self, adapter: Path) -> None:
        super().__init__({})
        self.adapter = str(adapter)


def test_a_manifest_comes_back_as_it_was_written_and_a_calibration_stays(tmp_path: Path) -> None:
    assert load_manifest(tmp_path) is None
    calibration = Calibration("inline", 2.0)
    save_calibration(calibration, tmp_path)
    save_blend(Blend("inline", 0.5), tmp_path)
    assert load_manifest(tmp_path) is None
    written = manifest(
        serve=Served(decoding="inline", passes=2),
        metrics={"ndcg@10_inline": 0.9},
        versions={"torch": "2"},
        data={"fingerprint": "f"},
    )
    assert save_manifest(written, tmp_path) == tmp_path / FILE
    assert load_manifest(tmp_path) == written
    assert load_calibration(tmp_path, "inline") == calibration
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("[]", "must hold a JSON object, got list"),
        ("{", "not JSON"),
        ('{"format": 3, "base_model": "m", "base_weights": "a", "prompts": {}}', "format: Input should be 1 or 2"),
        ('{"format": 2, "base_model": "m", "prompts": {}}', "base_weights: missing"),
        ('{"base_model": "m", "base_weights": "a", "prompts": {"inline": {"name": 3}}}', "prompts.inline.name: "),
        ('{"format": 1, "base_model": "m", "prompts": {}, "serve": {"decoding": "inlin"}}', "serve.decoding: "),
        (
            '{"format": 1, "base_model": "m", "prompts": {}, "serve": {"decoding": "pointwise", "passes": 2}}',
            "serve.passes: must be 1 for pointwise, got 2",
        ),
    ],
)
def test_a_broken_manifest_is_named(values: str, words: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(values)
    with pytest.raises(ConfigError) as caught:
        load_manifest(tmp_path)
    assert str(tmp_path / FILE) in str(caught.value)
    assert words in str(caught.value)


def test_a_file_that_holds_no_object_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.write_text("[1]")
    with pytest.raises(ConfigError):
        merge_values(file, {"a": 1})
    assert json.loads(file.read_text()) == [1]


def test_an_adapter_is_served_with_the_prompt_that_it_learned(tmp_path: Path) -> None:
    save_manifest(manifest(), tmp_path)
    reranker = Reranker(engine=Adapted(tmp_path))
    assert reranker.rerank("lamp", ["Lamp", "Desk"]).provenance.prompt_hash == INLINE.digest


def test_an_adapter_is_refused_with_another_prompt_and_the_message_says_how_to_override(tmp_path: Path) -> None:
    save_manifest(manifest(), tmp_path)
    with pytest.raises(ConfigError) as caught:
        Reranker(engine=Adapted(tmp_path), prompt="inline")
    for word in (str(tmp_path), "inline-lean", INLINE.digest, load_template("inline").digest, "check_adapter=False"):
        assert word in str(caught.value)
    taken = Reranker(engine=Adapted(tmp_path), prompt="inline", check_adapter=False)
    assert taken.rerank("lamp", ["Lamp"]).provenance.prompt_hash == load_template("inline").digest


def test_an_adapter_is_refused_for_a_decoding_that_it_did_not_learn(tmp_path: Path) -> None:
    save_manifest(manifest(), tmp_path)
    with pytest.raises(ConfigError, match="was trained for inline, not for first-token; check_adapter=False"):
        Reranker(engine=Adapted(tmp_path), decoding="first-token")
    assert Reranker(engine=Adapted(tmp_path), decoding="first-token", check_adapter=False).decoding == "first-token"


def test_an_adapter_is_served_with_its_best_decoding_unless_another_is_named(tmp_path: Path) -> None:
    listwise = load_template("listwise")
    prompts = {
        "inline": TrainedPrompt(name=INLINE.name, hash=INLINE.digest),
        "first-token": TrainedPrompt(name=listwise.name, hash=listwise.digest),
    }
    save_manifest(manifest(prompts=prompts, serve=Served(decoding="first-token", passes=3)), tmp_path)
    best = Reranker(engine=Adapted(tmp_path))
    assert (best.decoding, best.passes) == ("first-token", 3)
    assert Reranker(engine=Adapted(tmp_path), passes=1).passes == 1
    named = Reranker(engine=Adapted(tmp_path), decoding="first-token")
    assert named.passes == 3
    other = Reranker(engine=Adapted(tmp_path), decoding="inline")
    assert (other.decoding, other.passes) == ("inline", 2)


def test_the_best_decoding_is_that_of_the_highest_dev_figure() -> None:
    passes: Any = {"pointwise": 1, "inline": 2, "first-token": 2}
    figures = {"ndcg@10": 0.9, "ndcg@10_inline": 0.7, "ndcg@10_first-token": 0.8}
    assert best_served(figures, passes) == Served(decoding="first-token", passes=2)
    assert best_served(figures | {"ndcg@10_pointwise": 0.8}, passes) == Served(decoding="pointwise", passes=1)
    assert best_served({"ndcg@10": 0.9}, passes) is None


class TestBase:
    def test_the_weights_of_the_training_are_taken_in_silence(self, caplog: pytest.LogCaptureFixture) -> None:
        manifest(base_weights="a" * 64).check_base("shop/adapter", "elsewhere/tiny", "a" * 64)
        assert not caplog.records

    def test_other_weights_are_refused_and_both_are_named(self) -> None:
        with pytest.raises(ConfigError) as caught:
            manifest(base_weights="a" * 64).check_base("shop/adapter", "other", "b" * 64)
        for word in ("shop/adapter", "tiny", "a" * 16, "other", "b" * 16):
            assert word in str(caught.value)

    def test_a_known_model_from_another_source_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        manifest(base_weights="a" * 64).check_base("shop/adapter", "tiny", "b" * 64, same_name=True)
        assert "weights of tiny from another source" in caplog.text

    def test_an_old_manifest_is_read_and_cannot_be_compared(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        old = {"format": 1, "base_model": "tiny", "base_revision": "0" * 64, "prompts": {}}
        (tmp_path / FILE).write_text(json.dumps(old))
        found = load_manifest(tmp_path)
        assert found is not None
        found.check_base("shop/adapter", "other", "b" * 64)
        assert "does not say which weights of tiny it was trained on" in caplog.text


@pytest.mark.parametrize("name", SHIPPED)
def test_an_adapter_that_ships_can_be_served_with_todays_prompts(name: str) -> None:
    folder = demo_adapter(name)
    assert folder is not None
    found = load_manifest(folder)
    assert found is not None
    assert (found.format, found.base_model, len(found.base_weights)) == (2, name, 64)
    for decoding, prompt in found.prompts.items():
        found.check(name, decoding, prompt.name, load_template(prompt.name).digest)


def test_no_adapter_ships_for_other_models() -> None:
    assert demo_adapter("bert-minilm") is None
    assert demo_adapter("../sample_shop") is None


def test_null_in_an_optional_key_is_as_if_left_out(tmp_path: Path) -> None:
    bare = {"format": 1, "base_model": "m", "prompts": {"inline": {"name": "inline", "hash": "h"}}}
    nulls = {"base_weights": None, "data": None, "metrics": {"ndcg@10_inline": None}, "versions": None}
    prompts = {"inline": {"name": "inline", "hash": "h", "identifiers": None}, "listwise": None}
    (tmp_path / FILE).write_text(json.dumps(bare | nulls | {"prompts": prompts}))
    assert load_manifest(tmp_path) == Manifest.model_validate(bare)
