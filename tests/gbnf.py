"""Writes texts under a grammar in llama.cpp's notation, as far as `genrank.remote.grammar` uses it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

_PART = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?P<letters>\w+)\]|\((?P<group>.+)\)\{(?P<times>\d+)\}|(?P<rule>\w+)')

Choose = Callable[[str, Sequence[str]], str]
"""Chooses one of several next letters after a text."""


@dataclass(frozen=True)
class Grammar:
    """A grammar with a rule a line, whose alternatives begin with different letters."""

    text: str

    def write(self, choose: Choose) -> str:
        rules = dict(line.split(" ::= ", 1) for line in self.text.splitlines())
        written = ""
        ahead = list(_parts(rules["root"]))
        while ahead:
            part = ahead.pop(0)
            if part["group"]:
                ahead = [*_parts(part["group"])] * int(part["times"]) + ahead
            elif part["letters"]:
                written += choose(written, part["letters"])
            elif part["rule"]:
                alternatives = rules[part["rule"]].split(" | ")
                if len(alternatives) == 1:
                    body = alternatives[0]
                else:
                    by_letter = {body[1]: body for body in alternatives}
                    body = by_letter[choose(written, list(by_letter))]
                ahead = [*_parts(body), *ahead]
            else:
                written += json.loads(part[0])
        return written

    def language(self) -> Iterator[str]:
        """All texts that the grammar allows."""
        ahead: list[str] = [""]  # letters chosen so far, one text of them a branch
        while ahead:
            made = chosen = ahead.pop()
            at = 0

            def choose(_: str, options: Sequence[str], chosen: str = chosen) -> str:
                nonlocal at, made
                at += 1
                if at <= len(chosen):
                    return chosen[at - 1]
                ahead.extend(made + option for option in options[1:])
                made += options[0]
                return options[0]

            yield self.write(choose)


def _parts(body: str) -> Iterator[re.Match[str]]:
    return _PART.finditer(body)
