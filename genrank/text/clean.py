"""One line of visible characters out of any text, and its plain form for comparisons."""

from __future__ import annotations

import re
import unicodedata

_CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), " ")

# characters that take part in no text but pass for printable ones: blanks that are no white space, and empty marks
_BLANK = "\u2800\u3164\uffa0"
_EMPTY = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
_SELECTOR = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
_SYMBOL = "\u00a9\u00ae\u203c\u2049\u2100-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
_IDEOGRAPH = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_JOINED = "\u0600-\u1cff\ua800-\uabff\u2100-\u2bff\U0001f000-\U0001faff"  # scripts from Arabic to Indic, and emoji
_MARK = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"

_SUSPECT = re.compile(f"[\u200c\u200d{_BLANK}{_EMPTY}{_SELECTOR}]|[{_MARK}]{{3}}")
_NO_TEXT = re.compile(f"[{_EMPTY}]")
_BLANKS = re.compile(f"[{_BLANK}]")
_MISPLACED = re.compile(
    f"(?<![{_SYMBOL}{_IDEOGRAPH}#*0-9])[{_SELECTOR}]"
    f"|(?<![{_JOINED}])(?<![{_JOINED}]\ufe0f)[\u200c\u200d]|[\u200c\u200d](?![{_JOINED}])"
)
_FLOOD = re.compile(f"([{_MARK}]{{2}})[{_MARK}]+")


def clean(text: str) -> str:
    """A text as one line of visible characters.

    Control, format, surrogate and other invisible characters go, and white space of any kind becomes one space.
    Joiners and variation selectors stay where a script or an emoji needs them. Of many combining marks on one
    character two are kept.
    """
    if not text.isprintable():  # the common case needs no look at each character
        text = "".join(char for char in text.translate(_CONTROLS) if _visible(char))
    if not text.isascii() and _SUSPECT.search(text):
        text = _BLANKS.sub(" ", _NO_TEXT.sub("", text))
        text = _FLOOD.sub(r"\1", _MISPLACED.sub("", text))
    return " ".join(text.split())


def _visible(char: str) -> bool:
    return unicodedata.category(char) not in ("Cf", "Cs") or char in "\u200c\u200d"


def number_text(number: float) -> str:
    """A number as a shop writes it: ``129``, ``12999.99``."""
    return f"{number:.15g}"


class _Fold(dict[int, int | str]):
    """Maps each character to its plain form: lower case, full width to ASCII, accents off. One to one."""

    def __missing__(self, code: int) -> int | str:
        char = unicodedata.normalize("NFKC", chr(code)).lower()
        parts = unicodedata.normalize("NFKD", char)
        if parts[:1].isascii() and all(map(unicodedata.combining, parts[1:])):
            char = parts[:1]
        self[code] = char if len(char) == 1 else code
        return self[code]


_FOLD = _Fold()


def fold(text: str) -> str:
    """The text as it is compared: lower case, ASCII for its look-alikes; places in it are places in `text`."""
    return text.lower() if text.isascii() else text.translate(_FOLD)
