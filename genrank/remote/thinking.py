"""Separates a chat model's answer from its thinking."""

from __future__ import annotations

import re

from genrank.errors import OutputError

_NAMES = r"(?:think|thinking|thoughts?|reason|reasoning|reflection|analysis|scratch_?pad|monologue|draft)"
_PREFIX = r"(?:[\w-]{1,20}:|ant_?|inner_?|ling_?)?"
_LEFT, _RIGHT = r"(?:<\|?|◁|&lt;)\s{0,3}", r"(?:\|?>|▷|&gt;)"
_ATTRIBUTES = r"(?:\s[^<>▷]{0,200})?"
_TAG = re.compile(
    rf"""
      {_LEFT}(?P<slash>/?)\s{{0,3}}{_PREFIX}(?P<tag>{_NAMES}){_ATTRIBUTES}{_RIGHT}  # <think>, ◁think▷, <seed:think>
    | \[(?P<mistral>/?)THINK\]
    | {_LEFT}(?:(?P<begin>(?:begin|start)_(?:of_)?)|(?P<end>end_(?:of_)?))(?P<mark>{_NAMES}){_RIGHT}
    | (?P<open><unused94> | <\|channel>\s{{0,3}}thought | here\ is\ my\ thought\ process:)
    | (?P<close><unused95> | <channel\|> | here\ is\ my\ response:)
    | ^[ \t]{{0,8}}(?P<fence>```+|~~~+)[ \t]{{0,8}}{_NAMES}[ \t]*$
    """,
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)(?:(?!<\|channel\|>).)*?<\|message\|>", re.DOTALL)
_MESSAGE_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")


class CutOffError(OutputError):
    """The answer ends before it is whole."""


def without_thinking(text: str) -> str:
    """The parts of a model's text outside its thinking.

    Recognised are tags in angle brackets, square brackets or triangles (``<think>``, ``<thinking>``, ``<reasoning>``,
    ``[THINK]``, ``◁think▷``, ``<|begin_of_thought|>``, and their like), code fences named so, and the channels of
    gpt-oss (also where a server has dropped their special tokens: ``analysis...assistantfinal...``).
    A closing tag without an opening one ends thinking that the chat template opened in the prompt: all text before it
    is thinking.

    Args:
        text: Anything at all.

    Raises:
        CutOffError: When the text ends inside its thinking.
    """
    return _outside_tags(_final_channel(text))


def _outside_tags(text: str) -> str:
    kept: list[str] = []
    opened: list[str] = []  # families of the blocks that are open
    at = 0
    for match in _TAG.finditer(text):
        if match.start() < at:  # inside a code fence that was passed over
            continue
        if fence := match["fence"]:
            if opened:
                continue
            kept.append(text[at : match.start()])
            end = re.compile(rf"^[ \t]*{fence}[ \t]*$", re.MULTILINE).search(text, match.end())
            if end is None:
                raise CutOffError(_INSIDE)
            at = end.end()
            continue
        family = _family(match["tag"] or match["mark"] or "think")
        if match["slash"] or match["mistral"] == "/" or match["end"] or match["close"]:
            if not opened:
                kept.clear()  # the chat template opened the block, so all of it was thinking
            elif family in opened:
                opened.remove(family)
            else:
                continue  # it closes nothing that is open
        else:
            if not opened:
                kept.append(text[at : match.start()])
            opened.append(family)
        at = match.end()
    if opened:
        raise CutOffError(_INSIDE)
    return "\n".join([*kept, text[at:]])


def _family(name: str) -> str:
    """Tags of one family close each other: models write ``<think>`` and ``</thinking>``."""
    return name.lower().replace("thought", "think").replace("reason", "think")[:5]


_INSIDE = "the answer ends inside its thinking"


def _final_channel(text: str) -> str:
    """The last ``final`` channel of a text in the harmony format; other texts are returned as they are."""
    channels = list(_CHANNEL.finditer(text))
    if channels or "<|channel|>" in text:
        last = channels[-1] if channels else None
        if last is None or last[1] != "final" or text.rfind("<|channel|>") > last.start():
            raise CutOffError("the answer ends before its final channel")
        return _MESSAGE_END.split(text[last.end() :], maxsplit=1)[0]
    if re.match(r"\s*(?:assistant)?(?:analysis|commentary)(?=[A-Z\s])", text):
        _, found, final = text.rpartition("assistantfinal")
        if found:
            return final
        if re.match(r"\s*(?:assistant)?(?:analysis|commentary)[A-Z]", text):
            raise CutOffError("the answer ends before its final channel")
    return text
