"""What a language model thinks of suggestions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from genrank.engines.base import Engine, Stop, never
from genrank.search.understanding.choosing import Choice, choose
from genrank.text.language import Language, language

_WORDINGS: dict[Language, tuple[str, str, str, str]] = {
    "en": (
        "You check the suggestions of an online shop's search box.",
        "Suggestion: {text}\nIs this a good and complete search that a shopper would type? Answer yes or no.",
        "yes",
        "no",
    ),
    "zh": (
        "你检查网店搜索框的搜索建议。",
        "搜索建议：{text}\n这是顾客会输入的、完整的搜索词吗？回答是或否。",
        "是",
        "否",
    ),
}

WORDING = 1
"""Number of the questions' wording; judgements of another one are made again."""


def judge_texts(engine: Engine, texts: Sequence[str], *, stop: Stop = never) -> list[float]:
    """The model's probability that a shopper would type each text, where it may answer with yes or no only.

    Args:
        engine: A model that can be read by ``score``.
        texts: Suggestions; the question is in English or Chinese, as they are.
        stop: See `Engine`.

    Returns:
        ``[texts]``, 0 to 1.

    Raises:
        EngineError: When the engine fails or is stopped before the end.
    """
    scores, _ = choose(engine, [_choice(engine, text) for text in texts], stop=stop)
    return [math.exp(yes) for yes, _ in scores]


def _choice(engine: Engine, text: str) -> Choice:
    system, question, yes, no = _WORDINGS.get(language(text), _WORDINGS["en"])
    tokenizer = engine.tokenizer
    lead, after = tokenizer.frame(system)
    before, behind = question.split("{text}")
    head, middle, tail, *answers = tokenizer.encode([before, text, behind, yes, no])
    end = tokenizer.turn()[:1]
    return Choice(
        ids=(*lead, *head.ids, *middle.ids, *tail.ids, *after),
        answers=[(*answer.ids, *end) for answer in answers],
        lead=len(lead) + len(head.ids),
    )
