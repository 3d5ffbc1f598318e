from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from genrank.doctor.deep import check_torch, check_vllm


@pytest.fixture(autouse=True)
def _logging(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLLM_LOGGING_LEVEL", "VLLM_LOGGING_STREAM"):
        monkeypatch.setenv(name, "")


def fake_torch(gpus: int) -> SimpleNamespace:
    cuda = SimpleNamespace(
        is_available=lambda: gpus > 0,
        device_count=lambda: gpus,
        get_device_properties=lambda number: SimpleNamespace(name=f"GPU {number}", total_memory=80 * 2**30),
    )
    return SimpleNamespace(
        __version__="2.13.0",
        backends=SimpleNamespace(cpu=SimpleNamespace(get_cpu_capability=lambda: "AVX512")),
        device=lambda *parts: parts[0],
        cuda=cuda,
    )


def imports(**modules: Any) -> Any:
    """Stands in for `importlib.import_module`: a module, or what importing it raises."""

    def load(name: str) -> Any:
        found = modules.get(name.replace(".", "_"), ModuleNotFoundError(f"No module named {name!r}", name=name))
        if isinstance(found, Exception):
            raise found
        return found

    return load


LOADING = SimpleNamespace(native_dtype=lambda device: "torch.bfloat16" if device == "cuda" else "torch.float32")


def test_what_torch_computes_in() -> None:
    cpu, *gpus = check_torch(imports(torch=fake_torch(2), genrank_engines_loading=LOADING))
    assert (cpu.name, cpu.state, cpu.found) == ("torch", "ok", "2.13.0 on the CPU: AVX512, weights in float32")
    assert [(one.name, one.found) for one in gpus] == [
        ("torch, GPU 0", "GPU 0, 80 GiB, weights in bfloat16"),
        ("torch, GPU 1", "GPU 1, 80 GiB, weights in bfloat16"),
    ]


def test_what_is_not_installed_is_left_to_the_extras() -> None:
    assert check_torch(imports()) == []
    assert check_vllm(imports()) == []


@pytest.mark.parametrize(
    "error", [OSError("libcudart.so.12: cannot open\nmore"), ModuleNotFoundError("No module named 'x'", name="x")]
)
def test_a_package_that_cannot_be_imported_fails(error: Exception) -> None:
    (torch,) = check_torch(imports(torch=error))
    (vllm,) = check_vllm(imports(vllm=error))
    assert (torch.state, vllm.state) == ("failed", "failed")
    assert torch.found == f"cannot be used: {type(error).__name__}: {str(error).splitlines()[0]}"
    assert torch.fix == "pip install --force-reinstall 'genrank[transformers]'"
    assert vllm.fix == "pip install --force-reinstall 'genrank[vllm]'"


@pytest.mark.parametrize(("device", "state"), [("cuda", "ok"), ("", "failed")])
def test_vllm_says_which_device_it_runs_on(device: str, state: str) -> None:
    platforms = SimpleNamespace(current_platform=SimpleNamespace(device_type=device))
    (check,) = check_vllm(imports(vllm=SimpleNamespace(__version__="0.32.0"), vllm_platforms=platforms))
    assert check.state == state
    assert check.found.startswith("0.32.0 ")
