"""Grammars under which a model can write nothing but an order, in GBNF, the notation of llama.cpp.

A grammar that allows each permutation of n names and no other text needs a rule for every set of names: 2^n. Here the
first names of an answer are kept distinct as far as a bounded number of rules allows, which is all of up to eight.
Where a longer answer names a candidate again, the model is asked to go on from there, under a grammar that begins with
what it has written and leaves these names out.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

_MOST_RULES = 256


@dataclass(frozen=True, slots=True)
class OrderForm:
    """How an answer names candidates in order, as in ``[B] > [A] > [C``.

    Attributes:
        names: ``[n]`` of the candidates, each a different letter.
        opens: Comes before the first name.
        between: Comes between two names; not empty.
    """

    names: str
    opens: str
    between: str

    def written(self, places: Sequence[int]) -> str:
        """The beginning of an answer that names these places, 0-based, up to where the next name comes."""
        return self.opens + "".join(self.names[place] + self.between for place in places)

    def grammar(self, places: Sequence[int] = ()) -> str:
        """The grammar of the answers that begin with `places`, 0-based, and name only others after them.

        Of r names left, all are distinct if r is at most 8, and the first three if r is 20. An answer always has
        n names.
        """
        left = "".join(name for place, name in enumerate(self.names) if place not in places)
        distinct = _distinct(len(left))
        rules = [f"root ::= {_quoted(self.written(places))} s", f"b ::= {_quoted(self.between)}"]
        for size in range(distinct + 1):
            for chosen in itertools.combinations(left, size):
                rest = "".join(name for name in left if name not in chosen)
                if size == distinct:
                    more = f" (b [{rest}]){{{len(rest) - 1}}}" if len(rest) > 1 else ""
                    body = f"[{rest}]{more}"
                else:
                    body = " | ".join(f'"{name}" b s{"".join(sorted((*chosen, name)))}' for name in rest)
                rules.append(f"s{''.join(sorted(chosen))} ::= {body}")
        return "\n".join(rules)

    def read(self, text: str) -> list[int]:
        """The places that a text names, 0-based, up to where it leaves the form or names one again."""
        rest, lead = text.strip(), self.opens.strip()
        places: list[int] = []
        while rest.startswith(lead):
            name = rest[len(lead) :][:1]
            place = self.names.find(name) if name else -1
            if place < 0 or place in places:
                break
            places.append(place)
            rest, lead = rest[len(lead) + 1 :], self.between
        return places


def _distinct(left: int) -> int:
    """How many names of so many that are left can be remembered by rules."""
    rules = list(itertools.accumulate(math.comb(left, size) for size in range(left)))
    return sum(count <= _MOST_RULES for count in rules) - 1


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
