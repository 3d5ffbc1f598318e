"""Turns any text into one line of visible characters, and into a plain form for comparisons."""

from __future__ import annotations

import re
import unicodedata

_CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), " ")

# Characters that show nothing although Python calls them printable: blanks that are not white space, and empty marks.
# After the right letter some of them are part of real writing, and stay.
_BLANK = "\u2800\u3164\uffa0"
_EMPTY = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
_SELECTOR = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
_SELECTED = (  # what a variation selector may follow: symbols, digits, ideographs, Burmese and Phags-pa letters
    "\u00a9\u00ae\u203c\u2049\u2100-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff#*0-9"
    "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\u1000-\u109f\ua840-\ua877"
)
_LETTERS_JOINED = "\u0600-\u1cff\ua800-\uabff"  # scripts from Arabic to Indic; a joiner may end a word there
_JOINED = f"{_LETTERS_JOINED}\u2100-\u2bff\U0001f000-\U0001faff"  # and emoji
_NO_SPACES = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u1b7f\ua980-\ua9ff\uaa60-\uaadf"  # Thai to Javanese
_MARK = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
# format characters that are visible (such as Arabic number signs), and those that need a closer look further down
_FORMAT_KEPT = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
_FORMAT_JUDGED = frozenset(["\u180e", "\u200b", "\u200c", "\u200d", *map(chr, range(0xE0061, 0xE0080))])


def _tags(text: str) -> str:
    return "".join(chr(0xE0000 + ord(char)) for char in text) + "\U000e007f"


_FLAG = "\U0001f3f4(?:" + "|".join(map(_tags, ("gbeng", "gbsct", "gbwls"))) + ")"  # England, Scotland, Wales
_SUSPECT = re.compile(f"[\u200b-\u200d{_BLANK}{_EMPTY}{_SELECTOR}]|[{_MARK}]{{4}}")
_NO_TEXT = re.compile(
    f"({_FLAG}|[\u0591-\u05f4]\u034f|[\u1820-\u18aa][\u180b-\u180f]|[\u1780-\u17b3][\u17b4\u17b5]"
    f"|\u115f(?=[\u1161-\u11a7])|[\u1100-\u115e]\u1160)|[{_EMPTY}]"
)
_BLANKS = re.compile(f"[{_BLANK}]")
_MISPLACED = re.compile(
    f"(?<![{_SELECTED}])[{_SELECTOR}]"
    f"|(?<![{_JOINED}])(?<![{_JOINED}]\ufe0f)[\u200c\u200d]|(?<![{_LETTERS_JOINED}])[\u200c\u200d](?![{_JOINED}])"
    f"|(?<![{_NO_SPACES}])\u200b|\u200b(?![{_NO_SPACES}])"
)
_FLOOD = re.compile(f"([{_MARK}]{{2}})[{_MARK}]{{2,}}")  # three are real: Greek in decomposed form


def clean(text: str) -> str:
    """A text as one line of visible characters.

    Control, format, surrogate and other invisible characters are removed, and white space of any kind becomes one
    space. Joiners, variation selectors and zero-width spaces stay where a script or an emoji needs them. Of four or
    more combining marks on one character two are kept; no script needs that many.
    """
    if not text.isprintable():  # rare: only such a text is checked character by character
        text = "".join(char for char in text.translate(_CONTROLS) if _visible(char))
    if not text.isascii() and _SUSPECT.search(text):
        text = _BLANKS.sub(" ", _NO_TEXT.sub(r"\1", text))
        text = _FLOOD.sub(r"\1", _MISPLACED.sub("", text))
    return " ".join(text.split())


def _visible(char: str) -> bool:
    return unicodedata.category(char) not in ("Cf", "Cs") or char in _FORMAT_KEPT or char in _FORMAT_JUDGED


def number_text(number: float) -> str:
    """A number as a shop writes it: ``129``, ``12999.99``."""
    return f"{number:.15g}"


class _Fold(dict[int, int | str]):
    """Maps each character to one plain character: lower case, ASCII for full width, no accent."""

    def __missing__(self, code: int) -> int | str:
        char = unicodedata.normalize("NFKC", chr(code)).lower()
        parts = unicodedata.normalize("NFKD", char)
        if parts[:1].isascii() and all(map(unicodedata.combining, parts[1:])):
            char = parts[:1]
        self[code] = char if len(char) == 1 else code
        return self[code]


_FOLD = _Fold()


def fold(text: str) -> str:
    """A text for comparisons: lower case, ASCII instead of look-alikes. Positions in it are positions in `text`."""
    return text.lower() if text.isascii() else text.translate(_FOLD)
