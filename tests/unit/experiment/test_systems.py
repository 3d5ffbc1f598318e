from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pydantic
import pytest

from genrank.adapters import Manifest, Served, save_manifest
from genrank.calibration import Calibration, save_calibration
from genrank.errors import ConfigError, InputError
from genrank.experiment.systems import (
    GenrankSystem,
    decoding_of,
    dependencies,
    make_reranker,
    template_of,
)
from genrank.reranker import Reranker
from genrank.testing import ScriptedEngine


def system(**settings: Any) -> GenrankSystem:
    return GenrankSystem.model_validate({"type": "genrank", "name": "g", "model": "m"} | settings)


def test_options_that_are_left_out_have_the_rerankers_defaults() -> None:
    engine = ScriptedEngine([])
    made, plain = make_reranker(system(), 3, engine=engine), Reranker(engine=engine, seed=3)
    names = ("decoding", "strategy", "window", "stride", "passes", "seed", "max_prompt_tokens")
    assert [getattr(made, name) for name in names] == [getattr(plain, name) for name in names]


def test_options_reach_the_reranker() -> None:
    settings = {"decoding": "listwise", "strategy": "tournament", "window": 7, "stride": 3, "passes": 4}
    settings["max_prompt_tokens"] = 500
    made = make_reranker(system(**settings), 3, engine=ScriptedEngine([]))
    assert {name: getattr(made, name) for name in settings} == settings


def test_overrides_take_precedence() -> None:
    made = make_reranker(
        system(decoding="inline", passes=4, window=7, stride=3), 0, engine=ScriptedEngine([]), passes=1
    )
    assert (made.passes, made.window) == (1, 7)


def test_wrong_options_are_told_by_the_reranker() -> None:
    with pytest.raises(InputError, match="window"):
        make_reranker(system(window=1), 0, engine=ScriptedEngine([]))


@pytest.mark.parametrize(
    ("field", "value"), [("decoding", "inlin"), ("strategy", "slide"), ("engine", "tgi"), ("history", "all")]
)
def test_unknown_names_are_told_when_the_configuration_is_read(field: str, value: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=rf"{field}\n  Input should be '"):
        system(**{field: value})


def test_the_decoding_and_its_template() -> None:
    assert (decoding_of(system()), template_of(system()).name) == ("pointwise", "pointwise")
    inline = system(prompt="inline-lean")
    assert (decoding_of(inline), template_of(inline).name) == ("inline", "inline-lean")
    listwise = system(decoding="listwise")
    assert (decoding_of(listwise), template_of(listwise).name) == ("listwise", "listwise")
    assert template_of(system(decoding="listwise", prompt="listwise-numbers")).name == "listwise-numbers"


def test_rankings_depend_on_weights_prompt_and_calibration(tmp_path: Path) -> None:
    header = b'{"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    for name in ("model", "adapter"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}", encoding="utf-8")
        (tmp_path / name / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    save_calibration(Calibration("inline", 2.0), tmp_path / "calibration.json")
    own = {"model": str(tmp_path / "model")}
    plain = dependencies(system(**own))
    assert set(plain) == {"model", "prompt"}
    with_all = system(
        **own, decoding="inline", adapter=str(tmp_path / "adapter"), calibration=str(tmp_path / "calibration.json")
    )
    found = dependencies(with_all)
    assert set(found) == {"model", "prompt", "adapter", "calibration"}
    assert dependencies(system(**own, decoding="listwise"))["prompt"] != plain["prompt"]
    save_calibration(Calibration("inline", 3.0), tmp_path / "calibration.json")
    (tmp_path / "adapter" / "config.json").write_text("{ }", encoding="utf-8")
    changed = dependencies(with_all)
    assert {key for key in found if found[key] != changed[key]} == {"adapter", "calibration"}
    with pytest.raises(ConfigError, match=r"has no calibration\.listwise"):
        dependencies(with_all.model_copy(update={"decoding": "listwise"}))


def test_the_adapters_best_decoding_is_taken_where_none_is_named(tmp_path: Path) -> None:
    assert decoding_of(system(adapter=str(tmp_path))) == "pointwise"
    manifest = Manifest(format=1, base_model="m", prompts={}, serve=Served(decoding="listwise"))
    save_manifest(manifest, tmp_path)
    assert decoding_of(system(adapter=str(tmp_path))) == "listwise"
    assert decoding_of(system(adapter=str(tmp_path), decoding="inline")) == "inline"


def test_off_and_a_weight_of_0_are_kept_apart() -> None:
    assert system(blend=False).blend is False
    assert system(blend=0).blend is not False
    for value in (1.5, True, "half"):
        with pytest.raises(pydantic.ValidationError, match="blend"):
            system(blend=value)
