from __future__ import annotations

from typing import Any

import pytest

from genrank.errors import ModelNotFoundError
from genrank.remote.completions import UnservedError
from genrank.remote.models import ServedModel, adapter_name, find_adapter, find_model, served_models

URL = "http://host/v1"
BASE = ServedModel("m", root="/models/m", context=2048, by_vllm=True)
SHOP = ServedModel("shop", root="/adapters/shop", parent="m", by_vllm=True)


def test_vllms_and_llama_cpps_lists_are_read() -> None:
    answer = {
        "data": [
            {"id": "m", "root": "/models/m", "parent": None, "max_model_len": 2048, "owned_by": "vllm"},
            {"id": "shop", "root": "/adapters/shop", "parent": "m", "max_model_len": None, "owned_by": "vllm"},
            {"id": "local.gguf", "owned_by": "llamacpp", "meta": {"n_ctx": 4096}},
            {"id": 3},
            "x",
        ]
    }
    assert served_models(answer, URL) == [BASE, SHOP, ServedModel("local.gguf", context=4096)]


@pytest.mark.parametrize("answer", [None, [], {}, {"data": []}, {"data": "m"}, {"data": [{"name": "m"}]}])
def test_a_list_without_models(answer: Any) -> None:
    with pytest.raises(UnservedError, match=r"http://host/v1/models lists no models"):
        served_models(answer, URL)


def test_a_model_is_found_by_its_name_or_its_root_or_as_the_only_one() -> None:
    for name in ("m", "/models/m", None):
        assert find_model([SHOP, BASE], name, URL) == BASE
    other = ServedModel("m2", root="/models/m")  # two names of one model
    assert find_model([BASE, other], None, URL) == BASE


def test_several_models_are_listed_and_not_all_of_a_thousand() -> None:
    many = [ServedModel(f"m{i}") for i in range(1000)]
    with pytest.raises(ModelNotFoundError, match=r"serves m0, m1.*m9, \.\.\.; say which one with model=") as caught:
        find_model(many, None, URL)
    assert len(str(caught.value)) < 200


def test_an_adapter_is_no_model_and_a_model_no_adapter() -> None:
    with pytest.raises(ModelNotFoundError, match="does not serve shop, but m;"):
        find_model([BASE, SHOP], "shop", URL)
    with pytest.raises(ModelNotFoundError, match="adapter named m, only shop;"):
        find_adapter([BASE, SHOP], "m", URL)
    with pytest.raises(ModelNotFoundError, match="no adapter;"):
        find_adapter([BASE], "shop", URL)


@pytest.mark.parametrize("adapter", ["shop", "a/shop", "a/shop/", "/x/y/../shop"])
def test_an_adapter_is_served_under_its_folders_name(adapter: str) -> None:
    assert adapter_name(adapter) == "shop"
    assert find_adapter([BASE, SHOP], adapter, URL) == SHOP
