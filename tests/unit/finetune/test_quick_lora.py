"""The faster LoRA layers compute what PEFT's do."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("peft", reason="peft is not installed: pip install 'genrank[transformers]'")

import peft
import torch

from finetune.quick_lora import quicken

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bfloat16 on this CPU"
)


class Two(torch.nn.Module):
    """Two linear layers, with a bias or without."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(32, 48, bias=bias), torch.nn.Linear(48, 16, bias=bias)

    def forward(self, x: Any) -> Any:
        return self.second(torch.relu(self.first(x)))


def adapted(dtype: Any = None, bias: bool = False, **options: Any) -> Any:
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["first", "second"], **options)
    model = peft.get_peft_model(Two(bias).to(dtype or torch.bfloat16), config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    return model


def grads(model: Any, x: Any) -> dict[str, Any]:
    model.zero_grad()
    x = x.clone().requires_grad_()
    y = model(x)
    y.float().square().mean().backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    return {"x": x.grad.float(), "y": y.detach().float(), **found}


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"bias": True}])
def test_outputs_and_gradients_are_those_of_peft(options: Any) -> None:
    model = adapted(**options)
    x = torch.randn(3, 7, 32, dtype=torch.bfloat16)
    expected = grads(model, x)
    names = list(model.state_dict())
    assert quicken(model) == 2
    found = grads(model, x)
    assert list(model.state_dict()) == names
    assert set(found) == set(expected)
    assert len(found) == 6
    for name, value in expected.items():
        assert torch.nn.functional.cosine_similarity(found[name].flatten(), value.flatten(), dim=0) > 0.999, name
        assert float(found[name].norm() / value.norm()) == pytest.approx(1, abs=0.02), name


def test_dropout_falls_on_the_adapters_input_alone_and_only_in_training() -> None:
    model = adapted(lora_dropout=0.5)
    x = torch.randn(64, 32, dtype=torch.bfloat16)
    expected = grads(model.eval(), x)["y"]
    assert quicken(model) == 2
    assert torch.allclose(grads(model, x)["y"], expected, rtol=0.05, atol=0.05)
    model.train()
    runs = torch.stack([grads(model, x)["y"] for _ in range(2)])
    assert not torch.allclose(runs[0], runs[1])
    layer = model.base_model.model.first
    torch.nn.init.zeros_(layer.lora_B["default"].weight)
    assert torch.allclose(layer(x), layer.get_base_layer()(x), rtol=0.05, atol=0.05)  # the frozen path has none
    torch.nn.init.ones_(layer.lora_B["default"].weight)
    torch.nn.init.ones_(layer.lora_A["default"].weight)
    ones = torch.ones_like(x)
    with torch.no_grad():
        added = torch.stack([layer(ones) - layer.get_base_layer()(ones) for _ in range(50)]).float()
    assert float(added.mean()) == pytest.approx(2 * 4 * 32, rel=0.05)  # kept inputs are scaled up


@pytest.mark.parametrize("options", [{"use_dora": True}, {"dtype": torch.float32}])
def test_other_layers_stay_as_they_are(options: Any) -> None:
    model = adapted(**options)
    x = torch.randn(2, 32, dtype=options.get("dtype", torch.bfloat16))
    expected = model(x)
    assert quicken(model) == 0
    assert torch.equal(model(x), expected)
