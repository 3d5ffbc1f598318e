"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "missing", "failed"]
"""``missing`` is something that can be added, and nothing else needs; ``failed`` is broken, or needed and not there."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What was looked at, such as ``extra server`` or ``model smollm2-135m``.
        state: Whether it works.
        found: What was found, in words.
        fix: The command that gets or repairs it; empty where it is ``ok``, and only there.

    Raises:
        ValueError: When a state comes without the command that it needs, or with one that it does not.
    """

    name: str
    state: State
    found: str
    fix: str = ""

    def __post_init__(self) -> None:
        if (self.state == "ok") == bool(self.fix):
            raise ValueError(f"{self.name} is {self.state}, so it comes {'without' if self.fix else 'with'} a fix")
