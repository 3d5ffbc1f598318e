"""Training examples: windows as exactly the tokens that serving sends to a model, and the answers that it learns.

An example is one row of tokens with up to three things to learn from it:

- scores of candidates: ``inline`` reads a yes/no log-odds after each of them, ``first-token`` the logits of their
  identifiers after the prompt;
- the permutation, where equal gains are no preference: any identifier of the best remaining candidates is right;
- the text of a reason, in the conversation that ranked its listing.

`genrank.prompting.renderer.Renderer` makes the tokens, as it does in serving.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from finetune.windows import TrainingWindow
from genrank.errors import BudgetError
from genrank.files import files_fingerprint, fingerprint
from genrank.prompting.renderer import AnswerTokens, Prompt, Renderer

Form = Literal["inline", "listwise"]
"""Which prompt: ``listwise`` serves the decodings ``listwise`` and ``first-token``."""

ReasonWriter = Callable[[TrainingWindow, int, random.Random], str]
"""The reason for one candidate of a window, in the words that the model learns; empty if there is none."""

_ROOT = Path(__file__).resolve().parents[1]
_CODE = (
    "genrank/prompting/*.py",
    "genrank/text/*.py",
    "finetune/data.py",
    "finetune/windows.py",
    "finetune/reasons.py",
)


@dataclass(frozen=True, slots=True)
class Example:
    """One row of tokens and what is learned from it. Places are 0-based; what is read at a place comes after it.

    Attributes:
        form: The prompt's form.
        input_ids: ``[tokens]``.
        reads: ``[n]`` place at which each candidate's score is read.
        above: ``[n]`` tokens whose logits raise the score: yes, or the candidate's identifier.
        below: ``[n]`` tokens whose logits lower it: no, or none.
        gains: ``[n]`` gain of each candidate.
        answers: ``[m]`` place before each token that the model learns to write.
        choices: ``[m]`` the tokens that are right after it.
    """

    form: Form
    input_ids: Sequence[int]
    reads: Sequence[int]
    above: Sequence[Sequence[int]]
    below: Sequence[Sequence[int]]
    gains: Sequence[float]
    answers: Sequence[int] = ()
    choices: Sequence[Sequence[int]] = ()

    def to_row(self) -> dict[str, Any]:
        """The example as a row of a table, with its length for batches of like length."""
        return asdict(self) | {"length": len(self.input_ids)}


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
    """One example for each window and form of prompt.

    Args:
        windows: The windows to learn from.
        renderers: By form; those that serving uses.
        max_tokens: The most tokens of a row. A window that does not fit is cut as in serving.
        reasons: Chance that a row goes on to the reason for one of the best candidates.
        write_reason: Writes the reasons; None for no reasons.
        seed: Seed of the choice of the reason's candidate and of the order of ties.
        skipped: Counts the windows that gave no example.

    Yields:
        Examples, window by window, the forms in the order of `renderers`.
    """
    for number, window in enumerate(windows):
        for form, renderer in renderers.items():
            chance = random.Random(f"{seed} {number} {form}")
            chosen = None
            if write_reason is not None and chance.random() < reasons:
                chosen = _worth_a_reason(window, chance)
            try:
                yield make_example(window, form, renderer, max_tokens, chance, chosen, write_reason)
            except BudgetError:
                if skipped is not None:
                    skipped.count(f"{form}: more than {max_tokens} tokens")


def make_example(
    window: TrainingWindow,
    form: Form,
    renderer: Renderer,
    max_tokens: int,
    chance: random.Random,
    reason_for: int | None = None,
    write_reason: ReasonWriter | None = None,
) -> Example:
    """One window, rendered as one form of prompt.

    Args:
        window: The window to learn from.
        form: The prompt's form.
        renderer: Renders it.
        max_tokens: The most tokens of the row.
        chance: Orders ties.
        reason_for: Place of the candidate whose reason follows, 0-based; None: no reason follows.
        write_reason: Writes the reason.

    Raises:
        BudgetError: When the candidates do not fit into `max_tokens`.
    """
    answer = renderer.answer
    n = len(window.candidates)
    order = sorted(range(n), key=lambda place: (-window.gains[place], chance.random()))
    written = n * (1 + len(answer.between)) if form == "listwise" else 0
    text = write_reason(window, reason_for, chance) if write_reason is not None and reason_for is not None else ""
    reason = _reason_tokens(renderer, text)
    room = max_tokens - written
    prompt = renderer.render(window.query, window.candidates, window.history, max_tokens=room, decoding=form)
    ids = list(prompt.ids)
    if form == "inline":
        reads, above, below = list(prompt.reads), [list(answer.yes)] * n, [list(answer.no)] * n
        answers: list[int] = []
        choices: list[list[int]] = []
    else:
        reads, above, below = [len(ids) - 1] * n, [[token] for token in answer.identifiers[:n]], [[]] * n
        permutation, answers, choices = _permutation(window, order, answer, len(ids))
        ids += permutation
    if reason and reason_for is not None:
        ids, answers, choices = _with_reason(
            renderer, prompt, order, window, reason_for, reason, max_tokens, (ids, answers, choices)
        )
    return Example(form, ids, reads, above, below, window.gains, answers, choices)


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


def _with_reason(
    renderer: Renderer,
    prompt: Prompt,
    order: Sequence[int],
    window: TrainingWindow,
    place: int,
    reason: Sequence[int],
    max_tokens: int,
    without: tuple[list[int], list[int], list[list[int]]],
) -> tuple[list[int], list[int], list[list[int]]]:
    """The row with the reason for one candidate added; unchanged if there is no room for it."""
    ids, answers, choices = without
    try:
        asked = renderer.follow_up(
            prompt, order, window.query, window.candidates[place].listing, max_tokens=max_tokens - len(reason)
        )
    except BudgetError:
        return without
    assert list(asked[: len(ids)]) == ids, "a reason goes on in the conversation that ranked"
    return (
        [*asked, *reason],
        [*answers, *(len(asked) - 1 + i for i in range(len(reason)))],
        [*choices, *([token] for token in reason)],
    )
