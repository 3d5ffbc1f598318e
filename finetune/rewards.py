"""What an answer is worth, 0 to 1: the order that is read from it, its form, its variety, and the truth of a reason.

Pure functions of a text and what it was asked about; `finetune.grpo` gives them to TRL.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

from genrank.errors import OutputError
from genrank.permutation import Parsed, parse
from genrank.reasons.grounding import Facts, ground
from genrank.reasons.write import tidy
from genrank.text.clean import clean, fold
from genrank.text.language import language


def read(text: str, identifiers: Sequence[str]) -> Parsed | None:
    """The order that an answer gives, followed by the missing ones in the window's order; None if it gives none."""
    try:
        return parse(text, identifiers)
    except OutputError:
        return None


def ndcg_reward(text: str, identifiers: Sequence[str], gains: Sequence[float], k: int = 10) -> float:
    """nDCG@k of the order in an answer, ``DCG@k / ideal DCG@k`` with ``DCG@k = sum over i <= k of g_i / log2(i + 1)``.

    An answer without an order is worth 0, not the window's own order: saying nothing must not pay.

    Args:
        text: The answer.
        identifiers: ``[n]`` names of the candidates.
        gains: ``[n]`` gain of each candidate.
        k: Depth, 1 or more.
    """
    parsed = read(text, identifiers)
    ideal = _dcg(sorted(gains, reverse=True), k)
    if parsed is None or ideal <= 0:
        return 0.0
    return min(1.0, max(0.0, _dcg(parsed.permutation.apply(gains), k) / ideal))


def _dcg(gains: Sequence[float], k: int) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains[:k], start=1))


def format_reward(text: str, identifiers: Sequence[str], marks: str = "[]>") -> float:
    """How little of an answer had to be repaired: 1 for each candidate exactly once and nothing else.

    ``(1 - min(1, (missing + repeated + unknown) / n)) * said / (said + chatter)``: ``unknown`` counts names in
    brackets that no candidate has, ``said`` and ``chatter`` the characters inside and outside the names, spaces
    and `marks` left out.

    Args:
        text: The answer.
        identifiers: ``[n]`` names of the candidates.
        marks: Characters that a template puts around names.
    """
    parsed = read(text, identifiers)
    if parsed is None:
        return 0.0
    text = unicodedata.normalize("NFKC", text)
    bracketed: list[str] = re.findall(r"\[\s*(\w+)\s*\]", text)
    if set(bracketed) & set(identifiers):
        unknown = sum(name not in identifiers for name in bracketed)
        said = sum(len(name) for name in bracketed)
    else:  # a chain: everything outside it is chatter
        unknown = 0
        named = parsed.permutation.order[: len(identifiers) - parsed.missing]
        said = sum(len(identifiers[place]) for place in named)
    chatter = max(0, sum(not (char.isspace() or char in marks) for char in text) - said)
    mended = (parsed.missing + parsed.repeated + unknown) / len(identifiers)
    return (1 - min(1.0, mended)) * said / (said + chatter)


def diversity_reward(text: str, identifiers: Sequence[str], brands: Sequence[str], k: int) -> float:
    """Number of brands among the first k of the order, as a share of the most possible; no brand counts as none.

    The counterpart of ``category coverage@k`` in `eval.diversity`. 1 where no candidate has a brand: no order of them
    is more varied than another.

    Args:
        text: The answer.
        identifiers: ``[n]`` names of the candidates.
        brands: ``[n]`` brands of the candidates.
        k: Depth, 1 or more.
    """
    parsed = read(text, identifiers)
    if parsed is None:
        return 0.0
    names = [fold(clean(brand)) for brand in brands]
    most = min(k, len(set(filter(None, names))))
    return len(set(filter(None, parsed.permutation.apply(names)[:k]))) / most if most else 1.0


def grounding_reward(text: str, facts: Facts) -> float:
    """How true a reason is, ``(share of its claims that are grounded + 1 if serving keeps it as it is) / 2``.

    For a reason without any claim the share is 1 if serving keeps it, else 0. An empty reason, or one in another
    language than the query, is worth 0. `genrank.reasons.grounding.ground` finds the claims and says what is kept.

    Args:
        text: What the model wrote.
        facts: What the reason may speak of.
    """
    reason = tidy(text)
    if not reason or not _in_language(reason, facts):
        return 0.0
    grounded = ground(reason, facts)
    kept = float(not grounded.rewritten)
    stand = [bool(claim.fields) for claim in grounded.claims]
    return ((sum(stand) / len(stand) if stand else kept) + kept) / 2


def _in_language(reason: str, facts: Facts) -> bool:
    """Whether a reason is in the query's language, if that is known; words of the listing may be in any."""
    if facts.language == "other":
        return True
    known = {word for field in facts.fields for word in re.findall(r"\w+", fold(field.value))}
    own = [word for word in re.findall(r"\w+", reason) if fold(word) not in known]
    return not own or language(" ".join(own)) == facts.language
