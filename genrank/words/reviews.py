"""Takes reviews apart into sentences that may be read and repeated: data, and nobody's personal details."""

from __future__ import annotations

import re

from genrank.text.clean import clean
from genrank.text.injection import neutralise
from genrank.types import Listing

_MOST_REVIEWS, _MOST_CHARACTERS = 500, 2_000
_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？!?])|\n")
_CLAUSE = re.compile(
    r"\s*(?:[,;，；、:：]|\s[-–—]\s|\b(?:but|though|although|however)\b|但是|但|就是|不过|可惜)\s*", re.I
)
_PERSONAL = re.compile(
    r"\S+@\S+|https?:|www\.|\b[\w-]+\.(?:com|net|org|cn|io|ru|shop|info)\b"  # addresses
    r"|@\w+|\+?\d[\d\s().-]{6,}\d"  # handles, telephone and card numbers
    r"|\d+ (?:\w+ ){1,2}(?:street|road|avenue|lane|st|rd)\b|\b(?:postcode|zip code|whatsapp|telegram)\b"
    r"|\b(?:my name is|call me|contact me|regards|sincerely|signed|greetings from)\b"
    r"|\b(?:i am|i'm|i’m|this is) (?-i:[A-Z])|\b(?:mr|mrs|ms|dr)\b\.? (?-i:[A-Z])"
    r"|我叫|我是|本人|姓名|电话|手机号|微信|qq\s?[号群:：\d]|邮箱|地址|加我|联系我|署名",
    re.I,
)
_SIGNED = re.compile(r"\s[-–—]{1,2}\s?[A-Z]\w+[\w .]*$")  # - Anna B.


def review_sentences(listing: Listing) -> dict[str, int]:
    """The sentences of a listing's reviews, in order, without instructions to a model, each with its review's place.

    A sentence with an address, a number to call, a name of its writer or the like is left out, whatever else it says.
    At most 500 reviews and 2,000 characters of each are read.
    """
    found: dict[str, int] = {}
    for i, review in enumerate(listing.reviews[:_MOST_REVIEWS]):
        harmless = neutralise(_SIGNED.sub("", review[:_MOST_CHARACTERS]))
        for sentence in sentences(harmless):
            if not _PERSONAL.search(sentence):
                found.setdefault(sentence, i)
    return found


def sentences(text: str) -> list[str]:
    """The sentences of a text, each a clean line with its full stop."""
    return [one for part in _END.split(text) if re.search(r"\w", one := clean(part))]


def clauses(sentence: str) -> list[str]:
    """The clauses of a sentence, without the commas and conjunctions between them."""
    return [part for part in _CLAUSE.split(sentence) if re.search(r"\w", part)]
