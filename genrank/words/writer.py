"""Writes a summary or a title variant of a listing for one shopper, and keeps only what is known to be true."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from genrank.decoding.checks import check_count
from genrank.engines.base import AsyncEngine, Engine, EngineCall, Stop, TextRequest, TextResult
from genrank.errors import BudgetError, EngineError, InputError, OutputError
from genrank.prompting.renderer import Renderer
from genrank.reasons.grounding import Facts, describe
from genrank.text.clean import clean
from genrank.text.language import Language, language
from genrank.types import Candidate, Interaction, Listing, Query, Tokens, compact
from genrank.words.check import Checked, Grounds, check_title
from genrank.words.reviews import review_sentences, sentences
from genrank.words.template import WritingPrompt, load_prompt

Kind = Literal["summary", "title"]
Fate = Literal["kept", "cut", "fallback"]
"""What became of the model's text: all of it stays, some sentences were cut, or a plain text stands in its place."""

MOST_SENTENCES = 3
"""Sentences of a summary that are read."""

_MOST_CHARS = 400  # of a summary
_MAX_TOKENS: dict[Kind, int] = {"summary": 96, "title": 48}
_MOST_PROMPT = 2048  # tokens
_QUOTES = "\"'“”‘’「」《》 "
_LABEL = re.compile(r"^(?:title|description|summary|标题|介绍)\s*[:：]\s*", re.I)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A sentence of the model that was cut.

    Attributes:
        text: The sentence.
        why: What is wrong with it.
    """

    text: str
    why: str


@dataclass(frozen=True, slots=True)
class Written:
    """A text about a listing, of which every claim is grounded.

    Attributes:
        listing_id: The listing.
        kind: ``summary`` or ``title``.
        text: One line, not empty.
        evidence: The fields that it rests on, such as ``attributes.colour``, ``reviews[0]`` or ``history[2].brand``.
        fate: ``kept``, ``cut``, or ``fallback``: the fields in plain words, of a title the title itself.
        left_out: The sentences that were cut, with why.
        why: Why there is a fallback; else empty.
        spoken: The language.
        neutralised: Texts in the prompt from which something was removed that could pass for an instruction.
        tokens: Token counts of the model's call.
        written: The model's raw text.
    """

    listing_id: str
    kind: Kind
    text: str
    evidence: tuple[str, ...]
    fate: Fate
    left_out: tuple[LeftOut, ...] = ()
    why: str = ""
    spoken: Language = "en"
    neutralised: int = 0
    tokens: Tokens = field(default_factory=Tokens)
    written: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, without empty fields and without the raw text."""
        fields = dataclasses.asdict(self) | {"evidence": list(self.evidence)}
        fields["left_out"] = [dataclasses.asdict(one) for one in self.left_out]
        return compact({key: value for key, value in fields.items() if key != "written"})


@dataclass(frozen=True, slots=True)
class _Job:
    """One text that is asked for."""

    listing: Listing
    request: TextRequest | None
    neutralised: int
    why: str = ""


class Words:
    """Writes words for the shopper.

    Every claim in them is grounded: in the listing's fields, in its reviews (then it says that reviewers say so), or in
    the shopper's past. Sentences that say anything else are cut, and where nothing is left, the fields stand in plain
    words. English and Chinese; in other languages always the plain words.

    Args:
        engine: A model that can write, such as `genrank.Reranker.engine`. It stays the caller's, to be closed.
        summary: Name of the prompt for summaries in ``prompts/words``, or a ``.toml`` file.
        title: The prompt for titles.

    Raises:
        ConfigError: When a prompt is wrong.
    """

    def __init__(self, engine: Engine, *, summary: str | Path = "summary", title: str | Path = "title") -> None:
        self.engine = engine
        self.prompts: dict[Kind, WritingPrompt] = {
            "summary": load_prompt(summary, WritingPrompt),
            "title": load_prompt(title, WritingPrompt),
        }
        self._renderers: dict[tuple[Kind, Language], Renderer] = {}

    def summary(
        self,
        listing: Listing,
        query: Query | str | None = None,
        history: Sequence[Interaction] = (),
        *,
        spoken: Language | None = None,
        deadline: float | None = None,
    ) -> Written:
        """A summary of one listing; see `summaries`."""
        return self.summaries([listing], query, history, spoken=spoken, deadline=deadline)[0]

    def title(
        self,
        listing: Listing,
        query: Query | str | None = None,
        history: Sequence[Interaction] = (),
        *,
        max_chars: int = 60,
        spoken: Language | None = None,
        deadline: float | None = None,
    ) -> Written:
        """A title variant of one listing; see `titles`."""
        return self.titles([listing], query, history, max_chars=max_chars, spoken=spoken, deadline=deadline)[0]

    def summaries(
        self,
        listings: Sequence[Listing],
        query: Query | str | None = None,
        history: Sequence[Interaction] = (),
        *,
        spoken: Language | None = None,
        deadline: float | None = None,
    ) -> list[Written]:
        """Summaries of listings for one shopper, as one batch.

        Args:
            listings: ``[n]``.
            query: What the shopper typed; None: nothing.
            history: The shopper's past.
            spoken: The language; None: that of the query, or else of each title.
            deadline: Seconds after which the listings whose text is not written get their plain words.

        Returns:
            ``[n]``, in order; no error of the model is raised (`Written.why`).

        Raises:
            InputError: When the deadline is not positive, or the language unknown.
        """
        call = self._call("summary", listings, query, history, spoken, deadline)
        return call.finish(self._run(call))

    def titles(
        self,
        listings: Sequence[Listing],
        query: Query | str | None = None,
        history: Sequence[Interaction] = (),
        *,
        max_chars: int = 60,
        spoken: Language | None = None,
        deadline: float | None = None,
    ) -> list[Written]:
        """Title variants of listings for one shopper, as one batch; see `summaries`.

        A variant never loses a brand, model, size, number or noun of the title, and adds nothing but facts. Where the
        model's does, or is too long, the title itself is returned, even if it is longer than `max_chars`.

        Args:
            listings: ``[n]``.
            query: What the shopper typed; None: nothing.
            history: The shopper's past.
            max_chars: The most characters of a variant.
            spoken: The language; None: that of each title.
            deadline: See `summaries`.

        Raises:
            InputError: When an argument is out of range.
        """
        call = self._call("title", listings, query, history, spoken, deadline, max_chars)
        return call.finish(self._run(call))

    async def asummary(
        self,
        listing: Listing,
        query: Query | str | None = None,
        history: Sequence[Interaction] = (),
        *,
        spoken: Language | None = None,
        deadline: float | None = None,
    ) -> Written:
        """`summary` for asyncio."""
        return (await self.asummaries([listing], query, history, spoken=spoken, deadline=deadline))[0]

    async def atitle(
        self,
        listing: Listing,
        query: Query | str | None = None,
        history: Sequence[Interaction] = (),
        *,
        max_chars: int = 60,
        spoken: Language | None = None,
        deadline: float | None = None,
    ) -> Written:
        """`title` for asyncio."""
        texts = await self.atitles([listing], query, history, max_chars=max_chars, spoken=spoken, deadline=deadline)
        return texts[0]

    async def asummaries(
        self,
        listings: Sequence[Listing],
        query: Query | str | None = None,
        history: Sequence[Interaction] = (),
        *,
        spoken: Language | None = None,
        deadline: float | None = None,
    ) -> list[Written]:
        """`summaries` for asyncio: an engine that can be awaited is; others, and the checks, run in a thread."""
        call = await asyncio.to_thread(self._call, "summary", listings, query, history, spoken, deadline)
        return await asyncio.to_thread(call.finish, await self._arun(call))

    async def atitles(
        self,
        listings: Sequence[Listing],
        query: Query | str | None = None,
        history: Sequence[Interaction] = (),
        *,
        max_chars: int = 60,
        spoken: Language | None = None,
        deadline: float | None = None,
    ) -> list[Written]:
        """`titles` for asyncio; see `asummaries`."""
        call = await asyncio.to_thread(self._call, "title", listings, query, history, spoken, deadline, max_chars)
        return await asyncio.to_thread(call.finish, await self._arun(call))

    def _call(
        self,
        kind: Kind,
        listings: Sequence[Listing],
        query: Query | str | None,
        history: Sequence[Interaction],
        spoken: Language | None,
        deadline: float | None,
        max_chars: int = 60,
    ) -> _Call:
        if deadline is not None and not deadline > 0:
            raise InputError(f"must be more than 0 seconds, got {deadline}", field="deadline")
        if spoken is not None and spoken not in get_args(Language):
            raise InputError(f"must be one of {', '.join(get_args(Language))}, got {spoken!r}", field="spoken")
        if max_chars < 1:
            raise InputError(f"must be at least 1, got {max_chars}", field="max_chars")
        stop = Stop(math.inf if deadline is None else time.monotonic() + deadline)
        asked = Query(query) if isinstance(query, str) else query
        # the prompt shows no reviews of the past: the shopper did not write them
        past = [
            dataclasses.replace(one, listing=dataclasses.replace(one.listing, reviews=(), description=""))
            for one in history
        ]
        jobs = []
        for listing in listings:
            chosen = spoken or language(asked.text if asked and kind == "summary" else listing.title)
            jobs.append(self._job(kind, listing, asked, past, chosen, stop))
        return _Call(kind, jobs, asked, tuple(history), stop, max_chars)

    def _job(
        self,
        kind: Kind,
        listing: Listing,
        query: Query | None,
        history: Sequence[Interaction],
        spoken: Language,
        stop: Stop,
    ) -> tuple[Language, _Job]:
        if spoken == "other":
            return spoken, _Job(listing, None, 0, "the language is neither English nor Chinese")
        if stop():
            return spoken, _Job(listing, None, 0, "the deadline passed")
        renderer = self._renderer(kind, spoken)
        shown = dataclasses.replace(listing, reviews=tuple(review_sentences(listing)))
        asked = query or Query(self.prompts[kind].form(spoken).nothing)
        prepared = renderer.prepare(asked, [Candidate(shown)], history)
        most = _MAX_TOKENS[kind]
        try:
            prompt = prepared.reason(0, max_tokens=min(_MOST_PROMPT, self.engine.context - most))
        except BudgetError as error:
            return spoken, _Job(listing, None, 0, str(error))
        return spoken, _Job(
            listing, TextRequest(prompt.ids, most, renderer.reason_ends, prompt.lead), prompt.neutralised
        )

    def _renderer(self, kind: Kind, spoken: Language) -> Renderer:
        """Renders the prompt of a kind: its form as the reason of a template that asks for nothing else."""
        if (kind, spoken) not in self._renderers:
            form = self.prompts[kind].form(spoken)
            template = form.template(f"{self.prompts[kind].name}.{spoken}", chat=True)
            template = template.model_copy(update={"reason": {spoken: form}})
            self._renderers[kind, spoken] = Renderer(template, self.engine.tokenizer)
        return self._renderers[kind, spoken]

    def _run(self, call: _Call) -> list[TextResult | None] | str:
        """The answers to a call's requests, or why there are none."""
        if not call.requests:
            return []
        try:
            return _checked(call, EngineCall("write", call.requests).run(self.engine, call.stop))
        except (EngineError, OutputError) as error:
            return str(error)

    async def _arun(self, call: _Call) -> list[TextResult | None] | str:
        if not hasattr(self.engine, "awrite"):
            return await asyncio.to_thread(self._run, call)
        if not call.requests:
            return []
        try:
            return _checked(call, await cast(AsyncEngine, self.engine).awrite(call.requests, stop=call.stop))
        except (EngineError, OutputError) as error:
            return str(error)


@dataclass(frozen=True, slots=True)
class _Call:
    """The texts of one call."""

    kind: Kind
    jobs: Sequence[tuple[Language, _Job]]
    query: Query | None
    history: tuple[Interaction, ...]
    stop: Stop
    max_chars: int

    @property
    def requests(self) -> list[TextRequest]:
        return [job.request for _, job in self.jobs if job.request is not None]

    def finish(self, results: Sequence[TextResult | None] | str) -> list[Written]:
        """Check what the model wrote.

        Args:
            results: One for each request, None for one that was not finished; or why there are none.
        """
        left = iter(() if isinstance(results, str) else results)
        found = []
        for spoken, job in self.jobs:
            result, why = None, job.why
            if job.request is not None:
                result = None if isinstance(results, str) else next(left)
                why = results if isinstance(results, str) else "" if result else "the deadline passed"
            found.append(self._written(spoken, job, result, why))
        return found

    def _written(self, spoken: Language, job: _Job, result: TextResult | None, why: str) -> Written:
        listing = job.listing
        facts = Facts(self.query or Query("?"), listing, self.history)
        facts.language = spoken
        raw = result.text if result else ""
        kept: list[Checked] = []
        cut: list[Checked] = []
        for one in self._checks(raw, facts, listing, spoken) if result else ():
            (cut if one.why else kept).append(one)
        left_out = tuple(LeftOut(one.text, one.why) for one in cut)
        written = Written(
            listing_id=listing.listing_id,
            kind=self.kind,
            text="",
            evidence=(),
            fate="cut" if cut else "kept",
            left_out=left_out,
            spoken=spoken,
            neutralised=job.neutralised,
            tokens=result.tokens if result else Tokens(),
            written=raw,
        )
        if kept:
            text = ("" if spoken == "zh" else " ").join(one.text for one in kept)
            evidence = tuple(dict.fromkeys(name for one in kept for name in one.evidence))
            return dataclasses.replace(written, text=text, evidence=evidence)
        text, evidence = (clean(listing.title), ("title",)) if self.kind == "title" else describe(facts, _MOST_CHARS)
        why = why or (cut[0].why if cut else "the model wrote nothing")
        return dataclasses.replace(written, text=text, evidence=evidence, fate="fallback", why=why)

    def _checks(self, raw: str, facts: Facts, listing: Listing, spoken: Language) -> list[Checked]:
        lines = [line for line in raw.splitlines() if clean(line)]
        if self.kind == "title":
            line = _LABEL.sub("", clean(lines[0]).strip(_QUOTES)).strip(_QUOTES) if lines else ""
            line = line.rstrip("。")
            return [check_title(line, facts, self.max_chars)] if line else []
        grounds = Grounds(facts, listing, spoken)
        line = _LABEL.sub("", clean(lines[0])) if lines else ""
        found: list[Checked] = []
        length = 0
        for sentence in dict.fromkeys(sentences(line)):
            one = grounds.check(sentence)
            if not one.why and (
                length + len(one.text) > _MOST_CHARS or sum(not o.why for o in found) >= MOST_SENTENCES
            ):
                one = Checked(one.text, (), "too long")
            length += 0 if one.why else len(one.text) + 1
            found.append(one)
        return found


def _checked(call: _Call, results: Sequence[TextResult | None]) -> list[TextResult | None]:
    check_count(results, call.requests)
    return list(results)
