"""Separates a chat model's answer from its thinking."""

from __future__ import annotations

import re

from genrank.errors import OutputError
from genrank.text.clean import fold

_THINK = (
    r"(?:chain[_-]of[_-]thoughts?|think(?:ing)?|thoughts?|reason(?:s|ing)?|reflect(?:ions?|ing)?|analy[sz](?:is|e|ing)|"
    r"scratch_?pad|monologue|drafts?|ponder(?:ing)?|deliberat(?:e|ion|ing)|brainstorm(?:ing)?|rationale|critique|"
    r"contemplat(?:e|ion|ing)|explanation|cot|plan(?:ning)?|steps?|details)"
)
_NAMES = rf"(?:(?:[\w:-]{{0,20}}[_:-]|ant|inner|ling)?{_THINK}(?:[_-][\w-]{{0,20}})?)"
_LEFT, _RIGHT = r"\\?(?:<\|?|◁|&lt;)\s{0,3}", r"(?:\|?\\?>|▷|&gt;)"
_ATTRIBUTES = r"(?:\s[^<>▷]{0,200})?"
_TAG = re.compile(  # matched in folded text
    rf"""
      {_LEFT}(?:begin|start)_(?:of_)?(?P<begin>{_NAMES}){_RIGHT}  # <|begin_of_thought|>
    | {_LEFT}end_(?:of_)?(?P<end>{_NAMES}){_RIGHT}
    | {_LEFT}(?P<slash>\\?/?)\s{{0,3}}(?P<tag>{_NAMES}){_ATTRIBUTES}{_RIGHT}  # <think>, ◁think▷, <seed:think>
    | [\[{{](?P<bracket>/?)(?:think|thinking|thoughts?|reasoning|analysis|scratch_?pad)[\]}}]
    | (?P<open><unused94> | <\|channel>\s{{0,3}}thought | here\ is\ my\ thought\ process: | <!--
        | ^[ \t]*thinking(?:\.\.\.|…)[ \t]*$)
    | (?P<close><unused95> | <channel\|> | here\ is\ my\ response: | ^[ \t]*(?:\.\.\.|…)?done\ thinking\.?[ \t]*$)
    | (?P<arrow>-->)  # ends a comment
    | ^[ \t]{{0,8}}(?P<fence>```+|~~~+)[ \t]{{0,8}}{_NAMES}[ \t]*$
    """,
    re.VERBOSE | re.MULTILINE,
)
_HEADED = re.compile(  # ## Thinking, **Thoughts:**; up to the next heading or fence
    r"^[ \t]*(?:#{1,6}[ \t]*|\*\*)(?:thinking|thoughts?|thought process|chain of thought|scratch ?pad|"
    r"internal monologue|drafts?)[ \t]*(?:[:*.…][^\n]*)?$.*?(?=^[ \t]*(?:#{1,6}[ \t]|\*\*|```|~~~)|\Z)",
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
_TAG_CUT = re.compile(r"<\|?/?[a-z_]{0,20}\Z|<\|?/?" + _NAMES + r"(?:\s[^<>]*)?\Z")
_THINKING_KEY = re.compile(_NAMES)
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)(?:(?!<\|channel\|>).)*?<\|message\|>", re.DOTALL)
_MESSAGE_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")


class CutOffError(OutputError):
    """The answer ends before it is whole."""


def without_thinking(text: str) -> str:
    """The parts of a model's text outside its thinking.

    Recognised are tags in angle brackets, square brackets or triangles (``<think>``, ``<thinking>``, ``<reasoning>``,
    ``[THINK]``, ``◁think▷``, ``<|begin_of_thought|>``, and their like), code fences and headings named so, HTML
    comments, and the channels of gpt-oss (also where a server has dropped their special tokens:
    ``analysis...assistantfinal...``).
    A closing tag without an opening one ends thinking that the chat template opened in the prompt: all text before it
    is thinking.

    Args:
        text: Anything at all.

    Raises:
        CutOffError: When the text ends inside its thinking.
    """
    return _HEADED.sub("", _outside_tags(_final_channel(text)))


def _outside_tags(text: str) -> str:
    kept: list[str] = []
    opened: list[str] = []  # families of the blocks that are open
    at = 0
    folded = fold(text).replace("▁", "_")  # DeepSeek's <｜begin▁of▁thinking｜>
    for match in _TAG.finditer(folded):
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
        if match["arrow"] and not opened:
            continue
        name = match["tag"] or match["begin"] or match["end"] or "think"
        family = _family(name)
        if (
            match["slash"]
            or match["bracket"] == "/"
            or match["end"]
            or match["close"]
            or match["arrow"]
            or name.endswith("_end")
        ):
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
    if opened or _TAG_CUT.search(folded, at):
        raise CutOffError(_INSIDE)
    return "\n".join([*kept, text[at:]])


def _family(name: str) -> str:
    """Tags of one family close each other: models write ``<think>`` and ``</thinking>``."""
    stem = found[0] if (found := re.search(_THINK, name)) else "think"
    return "think" if re.match("think|thought|reason|chain|cot", stem) else stem[:4]


def names_thinking(name: str) -> bool:
    """Whether a name, such as a key of a JSON object, is one that models give to their thinking."""
    return _THINKING_KEY.fullmatch(fold(name)) is not None


_INSIDE = "the answer ends inside its thinking"


def _final_channel(text: str) -> str:
    """The last ``final`` channel of a text in the harmony format; other texts are returned as they are."""
    channels = list(_CHANNEL.finditer(text))
    if channels or "<|channel|>" in text:
        last = channels[-1] if channels else None
        if last is None or last[1] != "final" or text.rfind("<|channel|>") > last.start():
            raise CutOffError("the answer ends before its final channel")
        return _MESSAGE_END.split(text[last.end() :], maxsplit=1)[0]
    if re.match(r"\s*(?:assistant)?(?:analysis|commentary)(?=[A-Z\s{\[\"<])", text):
        _, found, final = text.rpartition("assistantfinal")
        if found:
            return final
        if re.match(r"\s*(?:assistant)?(?:analysis|commentary)[A-Z{\[\"<]", text):
            raise CutOffError("the answer ends before its final channel")
    return text
