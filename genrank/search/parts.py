"""What a search needs besides a model, opened and closed together: the index, shoppers, rules, the log."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from genrank.engines.base import Engine
from genrank.search.completion import Completion
from genrank.search.feedback.estimates import ClickEstimates
from genrank.search.index import Index
from genrank.search.pipeline import Pipeline, categories_of
from genrank.search.rules import Rules, load_rules
from genrank.search.shoppers import Shoppers
from genrank.search.understanding import Understanding, Vocabulary

if TYPE_CHECKING:  # the log needs the extra feedback
    from genrank.search.feedback.log import FeedbackLog


@dataclass(frozen=True)
class Parts:
    """The parts of a `Pipeline` that are on disk. Open them with `Parts.open`, and close them, or use ``with``.

    Attributes:
        index: The catalogue.
        shoppers: What shoppers did; None without.
        rules: Business rules; None without.
        log: Where what is shown is logged; None without.
        estimates: What shoppers clicked; None without.
        completion: The suggestions in the index's folder; None without.
    """

    index: Index
    shoppers: Shoppers | None = None
    rules: Rules | None = None
    log: FeedbackLog | None = None
    estimates: ClickEstimates | None = None
    completion: Completion | None = None
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)

    @classmethod
    def open(
        cls,
        index: str | Path,
        *,
        encoder: str | None = None,
        shoppers: str | Path | None = None,
        rules: str | Path | Mapping[str, Any] | None = None,
        log: str | Path | None = None,
        estimates: str | Path | None = None,
    ) -> Self:
        """Open the parts.

        Args:
            index: What ``genrank index`` wrote.
            encoder: Name of the model that made the index's vectors, to search by meaning too.
            shoppers: A file for `Shoppers`.
            rules: A file of rules, or the fields of `Rules`.
            log: A folder for `genrank.search.feedback.log.FeedbackLog`.
            estimates: A file that `ClickEstimates.save` wrote; `pipeline` then needs a ``weight``.

        Raises:
            GenrankError: When a part is wrong, or its extra is not installed.
            OSError: When a file cannot be read or written.
        """
        made: Any = None
        if encoder is not None:
            from genrank.search.dense import Encoder

            made = Encoder(encoder)
        with contextlib.ExitStack() as stack:
            found = stack.enter_context(Index.open(index, encoder=made))
            known = stack.enter_context(Shoppers(shoppers)) if shoppers is not None else None
            kept = None
            if log is not None:
                from genrank.search.feedback.log import FeedbackLog

                kept = FeedbackLog(log)
            clicked = ClickEstimates.load(estimates) if estimates is not None else None
            suggested = stack.enter_context(Completion.open(index)) if Completion.exists(index) else None
            return cls(found, known, make_rules(rules), kept, clicked, suggested, stack.pop_all())

    def understanding(self, engine: Engine) -> Understanding:
        """What reads queries in the words of the index, as they are now."""
        return Understanding(engine, Vocabulary.of(self.index, search=categories_of(self.index)))

    def pipeline(self, rank: Any, **options: Any) -> Pipeline:
        """A pipeline of these parts.

        Args:
            rank: See `Pipeline`.
            options: Of `Pipeline`; they count before these parts.
        """
        own = {"personalise": self.shoppers, "rules": self.rules, "log": self.log, "estimates": self.estimates}
        return Pipeline(self.index, rank, **(own | options))

    def close(self) -> None:
        """Close all parts."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make_rules(rules: str | Path | Mapping[str, Any] | None) -> Rules | None:
    """Rules from a file, or from the fields of `Rules`; None stays None.

    Raises:
        ConfigError: When the file is wrong.
        InputError: When a field is wrong.
    """
    if rules is None:
        return None
    return Rules(**rules) if isinstance(rules, Mapping) else load_rules(rules)
