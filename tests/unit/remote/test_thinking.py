from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrank.remote.thinking import CutOffError, without_thinking

PAIRS = [
    ("<think>", "</think>"),
    ("<think>\n", "\n</think>\n\n"),
    ("<THINK>", "</Think>"),
    ("< think >", "</ think>"),
    ("<thinking>", "</thinking>"),
    ("<think>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<reasoning>", "</reasoning>"),
    ('<reasoning effort="high">', "</reasoning>"),
    ("<analysis>", "</analysis>"),
    ("<reflection>", "</reflection>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<inner_monologue>", "</inner_monologue>"),
    ("<antThinking>", "</antThinking>"),
    ("<seed:think>", "</seed:think>"),
    ("<draft>", "</draft>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("&lt;think&gt;", "&lt;/think&gt;"),
    ("<|think|>", "<|/think|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<unused94>thought\n", "<unused95>"),
    ("<|channel>thought\n", "<channel|>"),
    ("Here is my thought process:\n", "Here is my response:\n"),
    ("<cot>", "</cot>"),
    ("<chain_of_thought>", "</chain_of_thought>"),
    ("<thought_process>", "</thought_process>"),
    ("<internal_reasoning>", "</internal_reasoning>"),
    ("<plan>", "</planning>"),
    ("<rationale>", "</rationale>"),
    ("<|thinking_start|>", "<|thinking_end|>"),
    ("<｜begin▁of▁thinking｜>", "<｜end▁of▁thinking｜>"),
    ("＜think＞", "＜/think＞"),
    ("\\<think\\>", "\\</think\\>"),
    ("[thinking]", "[/thinking]"),
    ("[REASONING]", "[/REASONING]"),
    ('<details type="reasoning" done="true">', "</details>"),
    ("<!-- ", " -->"),
    ("Thinking...\n", "\n...done thinking.\n"),
    ("```thinking\n", "\n```\n"),
    ("~~~ reasoning\n", "\n~~~\n"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>"),
    ("analysisWe", "assistantfinal"),
]


@pytest.mark.parametrize(("opened", "closed"), PAIRS)
def test_thinking_is_left_out(opened: str, closed: str) -> None:
    assert without_thinking(f"{opened}draft{closed}answer").strip() == "answer"
    assert without_thinking(f"{opened}{closed}answer").strip() == "answer"


@pytest.mark.parametrize(("opened", "closed"), PAIRS)
def test_a_text_that_ends_inside_its_thinking_is_cut_off(opened: str, closed: str) -> None:
    for text in (f"{opened}draft", f"{opened}{'draft ' * 10_000}", f"\n {opened}draft {closed[:3]}"):
        with pytest.raises(CutOffError):
            without_thinking(text)


@pytest.mark.parametrize(
    "closed", ["</think>", "</THINKING>", "</reasoning>", "[/THINK]", "◁/think▷", "<|end_of_thought|>", "<channel|>"]
)
def test_before_a_closing_tag_alone_all_is_thinking(closed: str) -> None:
    assert without_thinking(f"draft{closed}answer").strip() == "answer"
    assert without_thinking(f"draft{closed}draft{closed}answer").strip() == "answer"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("one <think>two</think> three <think>four</think> five", ["one", "three", "five"]),
        ("<think>a<think>b</think>c</think>d", ["d"]),
        ("<think>a<reasoning>b</reasoning>c</think>d", ["d"]),
        ("<think>a </analysis> b</think>c", ["c"]),
        ("<think>I close with </think> tags. draft</think>answer", ["answer"]),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>", ["b"]),
        ("<|channel|>final<|message|>answer", ["answer"]),
        ("analysis of the listings: answer", ["analysis", "of", "the", "listings:", "answer"]),
        ("Analysis: words. answer", ["Analysis:", "words.", "answer"]),
        ("I think <b>bold</b> [A] > [B] and ```json\n{}\n```", None),
        ("<thinker>kept</thinker>", None),
        ("## Thinking\ndraft\n## Answer\nb", ["##", "Answer", "b"]),
        ("**Thinking:** draft\nmore of it", []),
        ("### Thought process\ndraft\n```json\n{}\n```", ["```json", "{}", "```"]),
        ("**Think** pads", None),
        ("", []),
    ],
)
def test_what_is_left(text: str, left: list[str] | None) -> None:
    assert without_thinking(text).split() == (text.split() if left is None else left)


@pytest.mark.parametrize(
    "text",
    [
        "<think>a<think>b</think>c",
        "<think>a</think>b<think>c",
        "answer <think>draft",
        "<think>a </analysis> b",
        "<|channel|>analysis<|message|>a<|end|>",
        "<|channel|>final<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b",
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final",
        "analysisThe first",
    ],
)
def test_what_is_still_open(text: str) -> None:
    with pytest.raises(CutOffError):
        without_thinking(text)


TAGS = ["<think>", "</think>", "<reasoning>", "</reasoning>", "[THINK]", "[/THINK]"]


@given(st.lists(st.sampled_from([*TAGS, "x", "y"])))
def test_no_text_inside_a_block_is_ever_left(parts: list[str]) -> None:
    """Counted by another way: what is left never stands where more blocks were opened than closed before it."""
    marked = [f"{part}{number}" if part in "xy" else part for number, part in enumerate(parts)]
    try:
        left = without_thinking(" ".join(marked)).split()
    except CutOffError:
        return
    opens = {"<think>", "<reasoning>", "[THINK]"}
    depth = 0
    inside = set()
    for part in marked:
        depth = depth + 1 if part in opens else max(0, depth - 1) if part[0] in "<[" else depth
        if depth and part[0] in "xy":
            inside.add(part)
    assert not inside & set(left)


@pytest.mark.parametrize(
    "text", ["<think " * 50_000, "<" + " " * 300_000, "&lt;" * 100_000, "<|channel|>" * 30_000, "```think\n" * 20_000]
)
def test_odd_texts_cost_no_time(text: str) -> None:
    started = time.monotonic()
    with contextlib.suppress(CutOffError):
        without_thinking(text)
    assert time.monotonic() - started < 2
