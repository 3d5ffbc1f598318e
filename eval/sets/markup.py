"""Turning descriptions full of HTML and CSS into plain text.

The rules: comments, declarations and the insides of ``script``, ``style``, ``head`` and the like go; each tag becomes
a space, so that cells and list items do not run together; entities become characters; style rules left as bare text
(their ``style`` tag was lost on the way) go with their selectors; control characters and runs of white space become one
space. Program text outside of a ``script`` element stays: no set has enough of it to tell it from prose.
"""

from __future__ import annotations

import re
import unicodedata
from html.parser import HTMLParser

_HIDDEN = frozenset({"script", "style", "head", "title", "noscript", "template", "iframe", "object"})
_VOID_HIDDEN = re.compile(r"<!--.*?-->|<[!?][^>]*>", re.DOTALL)
_BLOCK = re.compile(r"\{[^{}]*\}")
_ELEMENTS = (
    "a abbr acronym address applet article aside audio b big blockquote body button caption center cite code col "
    "colgroup dd del dfn div dl dt em fieldset font footer form frame h1 h2 h3 h4 h5 h6 header hr html i iframe img "
    "input ins kbd label legend li main nav object ol option p pre q s samp section select small span strike strong "
    "sub sup table tbody td textarea tfoot th thead tr tt u ul var video"
)
_SELECTOR = re.compile(rf"(?:[.#@*:][^\s,]*|[>+~]|(?:{'|'.join(_ELEMENTS.split())})(?:[.#:\[][^\s,]*)?)", re.IGNORECASE)


class _Text(HTMLParser):
    """Collects the visible text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - HTMLParser's signature
        self.parts.append(" ")
        if tag in _HIDDEN:
            self._hidden.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - HTMLParser's signature
        self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        self.parts.append(" ")
        if tag in self._hidden:
            del self._hidden[self._hidden.index(tag) :]

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)


def clean_html(text: str) -> str:
    """Plain text of a description, on one line; text without markup only has its white space tidied."""
    if "<" in text or "&" in text:
        parser = _Text()
        # a "<!" or "<?" that is never closed would swallow the rest, or make the parser give up
        parser.feed(re.sub(r"<[!?]", " ", _VOID_HIDDEN.sub(" ", text)))
        parser.close()
        text = "".join(parser.parts)
    return one_line(_without_style_rules(text))


def one_line(text: str) -> str:
    """The text with every run of white space and control characters as one space."""
    return " ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in text).split())


def _without_style_rules(text: str) -> str:
    """Take bare CSS rules out, the innermost first, so that ``@media`` goes with what it holds."""
    found = True
    while found:
        found = False
        kept: list[str] = []
        end = 0
        for block in _BLOCK.finditer(text):
            if not _is_declarations(block.group()):
                continue
            found = True
            kept.append(_without_selectors(text[end : block.start()]))
            end = block.end()
        text = "".join(kept) + text[end:]
    return text


def _is_declarations(block: str) -> bool:
    declarations = [part for part in block[1:-1].split(";") if part.strip()]
    return all(re.match(r"\s*[*_-]*[a-z][\w-]*\s*:\s*\S", part, re.IGNORECASE) for part in declarations)


def _without_selectors(text: str) -> str:
    """Cut what reads as CSS selectors off the end of the text that comes before a rule."""
    text = re.sub(r"@[a-z-]+[^@{};]{0,60}$", "", text)
    end = len(text)
    for token in reversed(list(re.finditer(r"[^\s,]+", text))):
        if not _SELECTOR.fullmatch(token.group()):
            break
        end = token.start()
    return text[:end].rstrip(" \t\n,") + " " if end < len(text) else text
