"""What is done to every text before it goes anywhere."""

from __future__ import annotations

import unicodedata

_CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), " ")


def clean(text: str) -> str:
    """A text as one line of visible characters.

    Control, format and surrogate characters go (zero-width joiners stay: emoji and Persian need them), white space
    of any kind becomes one space.
    """
    if not text.isprintable():  # the common case needs no look at each character
        text = "".join(char for char in text.translate(_CONTROLS) if _visible(char))
    return " ".join(text.split())


def _visible(char: str) -> bool:
    return unicodedata.category(char) not in ("Cf", "Cs") or char in "\u200c\u200d"


def number_text(number: float) -> str:
    """A number as a shop writes it: ``129``, ``12999.99``."""
    return f"{number:.15g}"
