"""What shops and shoppers write stays as they wrote it, in whatever language."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrank.text.clean import clean
from genrank.text.injection import neutralise
from genrank.text.words import words

LINES = (Path(__file__).parent / "shop_words.txt").read_text(encoding="utf-8").splitlines()
LANGUAGES = {name: found.split() for name, _, found in (line.partition(": ") for line in LINES if line[:1] != "#")}
SPACED = [name for name in LANGUAGES if name not in ("Burmese", "Khmer", "Lao", "Thai", "Chinese", "Japanese", "Emoji")]
# how shops write sizes, models, media, packs and prices
SIGNS = (
    """
S/M/L/XL; 10-10-10; 3 in. x 3 in. x 3 in.; 40 S x S x S; [DVD]; [PS3]; <S>; {}; C++; C#; .NET; AT&T; #1; 100%; (2-pack)
5'6"; Ho! Ho! Ho!; Girls Girls Girls; Black/Black/Black; 22mm & 25mm/22mm & 25mm/22mm & 25mm; HDMI > DVI; 3.5mm; 1/2
Men > Shoes > Boots; Cup[s]; <<SALE>>; $9.99; €10; ★; ™; 10 > 5; best seller; 5 stars; A4; No. 5; AA AA AA; +/-; {new}
[New]; ha ha ha ha
""".strip()
    .replace("\n", "; ")
    .split("; ")
)
GAPS = (" ", ", ", " - ", " / ", "/", " | ", " & ", " + ", " (", ") ", "; ", "! ", "-")
Form = Literal["NFC", "NFD"]
FORMS: tuple[Form, ...] = ("NFC", "NFD")


@st.composite
def shop_texts(draw: st.DrawFn) -> str:
    """Words of one or two languages, each once or twice, and at most one of the signs."""
    names = draw(st.lists(st.sampled_from(sorted(LANGUAGES)), min_size=1, max_size=2, unique=True))
    known = dict.fromkeys(word for name in names for word in LANGUAGES[name])
    chosen = draw(st.lists(st.sampled_from(list(known)), min_size=1, max_size=8, unique=True))
    parts = [" ".join([word] * draw(st.integers(1, 2))) for word in chosen]
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), draw(st.sampled_from(SIGNS)))
    gap = draw(st.sampled_from(GAPS))
    return clean(unicodedata.normalize(draw(st.sampled_from(FORMS)), gap.join(parts)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LANGUAGES)
def test_cleaning_keeps_real_words_whole(name: str, form: Form) -> None:
    for word in LANGUAGES[name]:
        written = unicodedata.normalize(form, word)
        assert clean(written) == written
        assert clean(f"{written}\n{written}") == f"{written} {written}"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LANGUAGES)
def test_neutralising_keeps_all_words_of_a_language(name: str, form: Form) -> None:
    for text in (" ".join(LANGUAGES[name]), ", ".join(reversed(LANGUAGES[name])), "".join(LANGUAGES[name])):
        written = unicodedata.normalize(form, text)
        assert neutralise(written) == written
        assert neutralise(written, keep=True) == written


@given(shop_texts(), st.booleans())
def test_what_shops_write_stays_as_written(text: str, keep: bool) -> None:
    assert neutralise(text, keep=keep) == text


@pytest.mark.parametrize("name", SPACED)
def test_a_word_is_one_word_with_its_marks(name: str) -> None:
    for word in LANGUAGES[name]:
        found = words(word)
        assert len(found) == len(re.split("[-'·་]", word.strip("་")))
        assert found == words(unicodedata.normalize("NFD", word))


@given(st.data())
def test_two_words_are_told_apart(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(LANGUAGES)))
    folded = {unicodedata.normalize("NFKC", word).lower().replace("\ufe0f", "") for word in LANGUAGES[name]}
    one, other = data.draw(st.lists(st.sampled_from(sorted(folded)), min_size=2, max_size=2, unique=True))
    assert words(one) != words(other)
