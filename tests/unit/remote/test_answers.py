from __future__ import annotations

import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrank.errors import OutputError
from genrank.permutation import IDENTIFIERS
from genrank.remote.answers import read_answer
from genrank.remote.thinking import CutOffError


def letters(text: str, count: int = 4, *, finished: bool = True) -> str:
    return "".join(IDENTIFIERS[place] for place in read_answer(text, count, finished=finished).order)


@pytest.mark.parametrize(
    "text",
    [
        '{"ranking": ["C", "A", "B"]}',
        '```json\n{\n "ranking": ["C", "A", "B"]\n}\n```',
        '<think>{"ranking": ["A", "B", "C"]}? {no} A > B > C?</think> So: {"ranking": ["C", "A", "B"]} Enjoy!',
        '{"ranking": ["[C]", " A ", "B", "Z", "", 7, null, "lamp"]}',
        '{"ranking": "C > A > B"}',
        '{"ranking": ["Ｃ", "Ａ", "Ｂ"]}',
        '{"result": {"ranking": ["C", "A", "B"]}}',
        "[C] > [A] > [B]",
        "[C]>[A]>[B].",
        "［Ｃ］ ＞ ［Ａ］ ＞ ［Ｂ］",
        "[C] [A] [B]",
        "C, A, B",
        "**C > A > B**",
        "[C, A, B]",
        "C\nA\nB",
        "[C]\n[A]\n[B]",
        "1. [C] red lamp, better than [A]\n2. [A] lamp\n3. [B]",
        "- [C]: it fits\n- [A]: unlike [C] it is blue\n- [B]",
        "[C] red lamp > [A] blue lamp > [B] desk",
        "[C] > [A] >\n[B]",
        "<answer>[C] > [A] > [B]</answer>",
        '{"answer": 1} C > A > B',
        '{"ranking": ["Listing C", "item A", "Candidate [B]"]}',
        '["C", "A", "B"]',
        '["[C]", "[A]", "[B]"]',
        '```json\n{"ranking": ["C", "A", "B"], "reasons": {"A": "the <think> mug"}}\n```',
        "C\r\nA\r\nB",
        "I cannot see the prices, but: C > A > B",
        "1. C\n2. A\n3. B",
        "[C] --> [A] --> [B]",
        "1. **C**\n2. **A**\n3. **B**",
        "**[C]** > **[A]** > **[B]**",
        '{"ranking": ["C", "A", "B"], "reasons": {"A": "the <think> mug", "B": "the </think> mug"}}',
        '{"thinking": "[A] > [B] > [C]", "ranking": ["C", "A", "B"]}',
        '{"draft": {"ranking": ["A", "B", "C"]}, "answer": {"ranking": ["C", "A", "B"]}}',
        '{"reasoning": "[A] > [B] > [C]"}\n[C] > [A] > [B]',
        "The best is [C], I think, and [A] is next.\n\n[C] > [A] > [B]",
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_an_order_is_found(text: str, finished: bool) -> None:
    answer = read_answer(text, 3, finished=finished)
    assert (answer.order, answer.repeated) == ((2, 0, 1), 0)


DRAFTS = [
    "<think>{}</think>\n{}",
    "{}\n</think>\n{}",
    "[THINK]{}[/THINK]{}",
    "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
    "Draft: {}\nFinal: {}",
    "Draft: {}. Final: {}.",
    "{}\n{}",
    "{}\n\nOn second thought:\n\n{}",
    "```\n{}\n```\n\n```\n{}\n```",
]
FORMS = [
    "[A] > [B] > [C] > [D]",
    "A > B > C > D",
    '{"ranking": ["A", "B", "C", "D"]}',
    "\n1. [A]\n2. [B]\n3. [C]\n4. [D]",
]


@pytest.mark.parametrize("frame", DRAFTS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("finished", [True, False])
def test_a_draft_is_never_the_answer(frame: str, form: str, finished: bool) -> None:
    turned = re.sub(r"\b[A-D]\b", lambda match: chr(ord("A") + ord("D") - ord(match[0])), form)
    assert letters(frame.format(form, turned), finished=finished) == "DCBA"


@given(
    st.sampled_from(FORMS[:3]), st.sampled_from(FORMS[:3]), st.sampled_from(DRAFTS), st.randoms(use_true_random=False)
)
def test_a_draft_that_was_cut_off_is_no_label(form: str, last: str, frame: str, chance: random.Random) -> None:
    """Wherever an answer is cut, the order is either that of the whole answer's, or none."""
    if last.startswith("{") is not form.startswith("{"):
        return  # JSON takes precedence over text
    whole = frame.format(form, re.sub(r"\b[A-D]\b", lambda match: chr(ord("A") + ord("D") - ord(match[0])), last))
    begins = frame.format(form, "\0").index("\0")
    cut = chance.randrange(begins + 1, len(whole))
    try:
        found = letters(whole[:cut], finished=False)
    except OutputError:
        return
    assert found in ("DCBA", "ABCD")
    if found == "ABCD":  # nothing of the second order is there yet but what may be words
        assert not re.search(r"[A-D]\W", whole[begins:cut])


@pytest.mark.parametrize(
    "text",
    [
        "<think>[A] > [B] > [C] > [D]",
        "<think>" + "words " * 10_000 + "[A] > [B] > [C] > [D]",
        "<|channel|>analysis<|message|>[A] > [B] > [C] > [D]",
        '{"ranking": ["A", "B", "C", "D"',
        '{"ranking": ["A", "B", "C", "D"], "reasons": {"A": "It is',
        '{"ranking": ["A", "B", "C", "D"]} Better: {"rank',
        "[A] > [B] > [C] > [D]\nBetter: [D] > [C] >",
        "[A] > [B] > [C] > [D]\nBetter: [D] > [",
        "[A] > [B] > [C] > [D]\nBetter: [D] > [C",
        "A > B > C > D\nD, C,",
        '{"draft": {"ranking": ["A", "B", "C", "D"]}, "ranking": ["D"',
        '{"draft": {"ranking": ["A", "B", "C", "D"]}, "ranking": ["D", "C", "B", "A',
        "analysis[A] > [B] > [C] > [D]",
        '<think {"ranking": ["A", "B", "C", "D"]}',
        '{"ranking": ["A", "B", "C", "D"]}</thin',
        "[A] > [B] > [C] > [D]\n</",
    ],
)
def test_what_is_visibly_cut_off_is_told(text: str) -> None:
    for finished in (True, False):
        with pytest.raises(CutOffError):
            read_answer(text, 4, finished=finished)


@pytest.mark.parametrize("text", ["[D] > [C]", "[A] > [B] > [C] > [D]\nBetter: [D] > [C]", "D > C > B"])
def test_an_order_that_stops_short_is_cut_off_unless_the_model_stopped(text: str) -> None:
    assert letters(text)
    with pytest.raises(CutOffError, match=r"the answer ends after \d of 4 listings"):
        read_answer(text, 4, finished=False)


def test_repeated_and_missing_ones_are_not_invented() -> None:
    for text in ('{"ranking": ["B", "D", "B", "B"]}', "[B] > [D] > [B] > [B]"):
        answer = read_answer(text, 4)
        assert (answer.order, answer.repeated) == ((1, 3), 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot rank these listings.",
        "A lamp for Bob, and a desk.",
        '{"ranking": ["B", "D"',
        '{"ranking": []}',
        '{"ranking": null}',
        '{"ranking": {"A": 1}}',
        '{"ranking": ["A"]}',
        "A, B",
        "I can't rank A, B, C, D and E.",
        "Sorry, A, B, C, D, E are all alike.",
        '{"thinking": "[A] > [B] > [C] > [D] > [E]"}',
        '{"reasoning": {"ranking": ["A", "B", "C", "D", "E"]}}',
        '{"candidates": ["A", "B", "C", "D", "E"]}',
        "{" * 30_000,
        '{"a":' * 10_000,
        "9" * 10_000,
    ],
)
def test_what_holds_no_order_of_half_of_them_is_unreadable(text: str) -> None:
    with pytest.raises(OutputError):
        read_answer(text, 5)


def test_reasons_go_by_letter_and_stay_as_they_were_written() -> None:
    reasons = {"A": "one ３㎏，", "[B]": "two", "Z": "no such", "AB": "no such", "": "none", "C": 7}
    answer = read_answer(json.dumps({"ranking": ["C", "B", "A"], "reasons": reasons}), 3)
    assert answer.reasons == {0: "one ３㎏，", 1: "two"}
    assert read_answer('{"ranking": ["B", "A"], "reasons": ["x"]}', 2).reasons == {}


def test_the_reasons_are_those_of_the_order_that_counts() -> None:
    text = '{"ranking": ["A", "B"], "reasons": {"A": "draft"}} {"ranking": ["B", "A"], "reasons": {"B": "final"}}'
    answer = read_answer(text, 2)
    assert (answer.order, answer.reasons) == ((1, 0), {1: "final"})


@given(st.text(max_size=300), st.integers(2, 52), st.booleans())
def test_any_text_gives_an_order_of_its_candidates_or_none(text: str, count: int, finished: bool) -> None:
    try:
        answer = read_answer(text, count, finished=finished)
    except OutputError:
        return
    assert len(set(answer.order)) == len(answer.order) >= count / 2
    assert set(answer.order) <= set(range(count))
