from __future__ import annotations

from pathlib import Path

import pytest

from genrank.doctor.machine import check_cpu, check_environment, check_gpu, gpus

AVX512 = "avx512f avx512bw avx512vl avx512dq"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (f"flags\t\t: fpu {AVX512} avx512_bf16 amx_tile amx_bf16", "AVX-512, bfloat16, AMX"),
        (f"flags\t\t: fpu {AVX512}", "AVX-512, no bfloat16, no AMX"),
        ("flags\t\t: fpu avx2 avx512f", "no AVX-512, no bfloat16, no AMX"),
        ("Features\t: fp asimd bf16", "no AVX-512, bfloat16, no AMX"),
        ("model name\t: unknown", "no AVX-512, no bfloat16, no AMX"),
    ],
)
def test_the_instructions_of_the_processor(tmp_path: Path, line: str, found: str) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\n{line}\nbugs\t\t:\n")
    check = check_cpu(file)
    assert check.state == "ok"
    assert check.found.endswith(f"; {found}")
    assert " core" in check.found


def test_a_system_without_cpuinfo(tmp_path: Path) -> None:
    assert "--deep asks torch" in check_cpu(tmp_path / "none").found


def test_gpus_are_those_of_the_driver(tmp_path: Path) -> None:
    assert gpus(tmp_path / "none") == []
    for number, text in enumerate(("Model: \t\t NVIDIA H200\nIRQ:   \t\t 42\n", "IRQ: 43\n")):
        folder = tmp_path / f"0000:0{number}:00.0"
        folder.mkdir()
        (folder / "information").write_text(text)
    assert gpus(tmp_path) == ["NVIDIA H200", "unknown model"]


@pytest.mark.parametrize(
    ("names", "torch", "state", "fix"),
    [
        ([], "2.13.0+cpu", "ok", ""),
        (["NVIDIA H200"], "2.13.0+cu128", "ok", ""),
        (["NVIDIA H200"], None, "ok", ""),
        (["NVIDIA H200"], "2.13.0+cpu", "missing", "pip install --force-reinstall torch"),
    ],
)
def test_a_gpu_wants_a_torch_that_can_use_it(names: list[str], torch: str | None, state: str, fix: str) -> None:
    check = check_gpu(names, torch)
    assert (check.state, check.fix) == (state, fix)
    assert all(name in check.found for name in names)


def test_variables_are_named_and_their_values_never_shown() -> None:
    check = check_environment(
        {"GENRANK_API_KEYS": "secret-1", "HF_TOKEN": "secret-2", "https_proxy": "http://me:secret-3@host", "PATH": "p"}
    )
    assert check.found == "GENRANK_API_KEYS, HF_TOKEN, https_proxy"
    assert check_environment({"PATH": "p"}).found == "nothing set"
