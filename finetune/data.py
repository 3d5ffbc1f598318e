"""Training examples: windows as exactly the tokens that serving sends to a model, and the answers that it learns.

An example is one or more sequences of tokens with up to two things to learn from them:

- scores of candidates: ``pointwise`` reads a yes/no log-odds at the end of each candidate's own prompt, ``inline``
  after each candidate of a window, ``first-token`` the logits of their identifiers after the prompt;
- the permutation, where equal gains are no preference: any identifier of the best remaining candidates is right.

A reason is an example of its own, form ``reason``: its text is learned, behind the prompt that asks for it in serving.

`genrank.prompting.renderer.Renderer` makes the tokens, as it does in serving.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from finetune.windows import TrainingWindow
from genrank.errors import BudgetError
from genrank.files import files_fingerprint, fingerprint
from genrank.prompting.renderer import AnswerTokens, Renderer
from genrank.types import Decoding

Form = Literal["pointwise", "inline", "listwise", "reason", "understanding"]
"""Which prompt: ``listwise`` serves the decodings ``listwise`` and ``first-token``; ``reason`` asks for a reason,
``understanding`` for what a query means (`finetune.understanding`)."""

SCORED_BY: Mapping[Form, Decoding] = {"pointwise": "pointwise", "inline": "inline", "listwise": "first-token"}
"""The decoding whose scores a form learns, and by which it is measured during training."""

ReasonWriter = Callable[[TrainingWindow, int, random.Random], str]
"""The reason for one candidate of a window, in the words that the model learns; empty if there is none."""

_ROOT = Path(__file__).resolve().parents[1]
_CODE = (
    "genrank/prompting/*.py",
    "genrank/text/*.py",
    "genrank/search/understanding/*.py",
    "genrank/search/bm25.py",
    "finetune/understanding.py",
    "finetune/data.py",
    "finetune/windows.py",
    "finetune/reasons.py",
)


@dataclass(frozen=True, slots=True)
class Example:
    """Sequences of tokens and what is learned from them. Places are 0-based; what is read at a place comes after it.

    Attributes:
        form: The prompt's form.
        input_ids: ``[tokens]`` of all sequences, one after another.
        starts: ``[s]`` place at which each sequence begins. ``pointwise`` has one for each candidate, in their order.
        reads: ``[n]`` place at which each candidate's score is read.
        above: ``[n]`` tokens whose logits raise the score: yes, or the candidate's identifier.
        below: ``[n]`` tokens whose logits lower it: no, or none.
        gains: ``[n]`` gain of each candidate.
        answers: ``[m]`` place before each token that the model learns to write.
        choices: ``[m]`` the tokens that are right after it.
    """

    form: Form
    input_ids: Sequence[int]
    starts: Sequence[int]
    reads: Sequence[int]
    above: Sequence[Sequence[int]]
    below: Sequence[Sequence[int]]
    gains: Sequence[float]
    answers: Sequence[int] = ()
    choices: Sequence[Sequence[int]] = ()

    def to_row(self) -> dict[str, Any]:
        """The example as a row of a table, with its tokens and those of its longest sequence counted."""
        bounds = [*self.starts, len(self.input_ids)]
        longest = max(end - start for start, end in itertools.pairwise(bounds))
        return asdict(self) | {"length": len(self.input_ids), "longest": longest}


@dataclass(frozen=True, slots=True)
class Skipped:
    """Counts of windows that could not become an example.

    Attributes:
        why: Counts by reason.
    """

    why: dict[str, int] = field(default_factory=dict)

    def count(self, why: str) -> None:
        """Count one more."""
        self.why[why] = self.why.get(why, 0) + 1


def make_examples(
    windows: Iterable[TrainingWindow],
    renderers: dict[Form, Renderer],
    *,
    max_tokens: int,
    reasons: float = 0.0,
    write_reason: ReasonWriter | None = None,
    seed: int = 0,
    skipped: Skipped | None = None,
) -> Iterator[Example]:
    """One example for each window and form of prompt, and one for a reason now and then.

    Args:
        windows: The windows to learn from.
        renderers: By form; those that serving uses.
        max_tokens: The most tokens of a sequence. A window that does not fit is cut as in serving.
        reasons: Chance that a window also gives an example of the reason for one of its best candidates.
        write_reason: Writes the reasons; None for no reasons.
        seed: Seed of the choice of the reason's candidate and of the order of ties.
        skipped: Counts the windows that gave no example.

    Yields:
        Examples, window by window, the forms in the order of `renderers`, and the reason last.
    """
    for number, window in enumerate(windows):
        for form, renderer in renderers.items():
            chance = random.Random(f"{seed} {number} {form}")
            try:
                yield make_example(window, form, renderer, max_tokens, chance)
            except BudgetError:
                if skipped is not None:
                    skipped.count(f"{form}: more than {max_tokens} tokens")
        chance = random.Random(f"{seed} {number} reason")
        if write_reason is None or chance.random() >= reasons:
            continue
        place = _worth_a_reason(window, chance)
        text = write_reason(window, place, chance) if place is not None else ""
        if place is not None and text:
            try:
                yield make_reason_example(window, place, next(iter(renderers.values())), max_tokens, text)
            except BudgetError:
                if skipped is not None:
                    skipped.count(f"reason: more than {max_tokens} tokens")


def make_example(
    window: TrainingWindow,
    form: Form,
    renderer: Renderer,
    max_tokens: int,
    chance: random.Random,
) -> Example:
    """One window, rendered as one form of prompt.

    Args:
        window: The window to learn from.
        form: The prompt's form: ``pointwise``, ``inline`` or ``listwise``.
        renderer: Renders it.
        max_tokens: The most tokens of a sequence.
        chance: Orders ties.

    Raises:
        BudgetError: When the candidates do not fit into `max_tokens`.
    """
    answer = renderer.answer
    n = len(window.candidates)
    order = sorted(range(n), key=lambda place: (-window.gains[place], chance.random()))
    room = max_tokens - (n * (1 + len(answer.between)) if form == "listwise" else 0)
    prepared = renderer.prepare(window.query, window.candidates, window.history, window.intent)
    ids: list[int] = []
    starts: list[int] = []
    reads: list[int] = []
    for shown in [[place] for place in range(n)] if form == "pointwise" else [[*range(n)]]:
        prompt = prepared.window(shown, max_tokens=room, decoding=SCORED_BY[form])
        starts.append(len(ids))
        reads += [len(ids) + place for place in prompt.reads]
        ids += prompt.ids
    above: list[list[int]]
    below: list[list[int]]
    answers: list[int] = []
    choices: list[list[int]] = []
    if form == "listwise":
        reads, above, below = [len(ids) - 1] * n, [[token] for token in answer.identifiers[:n]], [[]] * n
        permutation, answers, choices = _permutation(window, order, answer, len(ids))
        ids += permutation
    else:
        above, below = [list(answer.yes)] * n, [list(answer.no)] * n
    return Example(form, ids, starts, reads, above, below, window.gains, answers, choices)


def make_reason_example(window: TrainingWindow, place: int, renderer: Renderer, max_tokens: int, text: str) -> Example:
    """The request for one candidate's reason, and the reason.

    Args:
        window: The window to learn from.
        place: Place of the candidate, 0-based.
        renderer: Renders the request.
        max_tokens: The most tokens of the sequence.
        text: The reason.

    Raises:
        BudgetError: When `max_tokens` cannot hold the request and the reason.
    """
    reason = _reason_tokens(renderer, text)
    prepared = renderer.prepare(window.query, window.candidates, window.history, window.intent)
    asked = prepared.reason(place, max_tokens=max_tokens - len(reason)).ids
    answers = [len(asked) - 1 + i for i in range(len(reason))]
    return Example("reason", [*asked, *reason], [0], [], [], [], [], answers, [[token] for token in reason])


def examples_fingerprint(settings: Any, folders: Sequence[str | Path]) -> str:
    """SHA-256 of all that examples depend on: settings, dataset folders, and the code that makes them."""
    code = [files_fingerprint(file) for pattern in _CODE for file in sorted(_ROOT.glob(pattern))]
    return fingerprint([settings, [files_fingerprint(folder) for folder in folders], code])


def _worth_a_reason(window: TrainingWindow, chance: random.Random) -> int | None:
    best = max(window.gains)
    return chance.choice([place for place, gain in enumerate(window.gains) if gain == best]) if best > 0 else None


def _permutation(
    window: TrainingWindow, order: Sequence[int], answer: AnswerTokens, start: int
) -> tuple[list[int], list[int], list[list[int]]]:
    """The order as text that begins at `start`: its tokens, the places before identifiers, and which are right there.

    Tokens between identifiers, and the last identifier, are filled in when the model is served: nothing to learn.
    """
    ids: list[int] = []
    answers, choices = [], []
    for step, place in enumerate(order):
        left = order[step:]
        if len(left) > 1:
            answers.append(start + len(ids) - 1)
            choices.append([answer.identifiers[p] for p in left if window.gains[p] == window.gains[place]])
        ids += [answer.identifiers[place], *(answer.between if len(left) > 1 else ())]
    return ids, answers, choices


def _reason_tokens(renderer: Renderer, text: str) -> list[int]:
    """A reason and the token that ends it: the chat's own, otherwise a line break."""
    if not text:
        return []
    chat = renderer.tokenizer.frame("")[1]
    (encoded,) = renderer.tokenizer.encode([text if chat else " " + text])
    end = renderer.tokenizer.turn()[:1] if chat else renderer.reason_ends[:1]
    return [*encoded.ids, *end]
