"""The reranker: a query, a history and candidates in; a complete ranking with its provenance out."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
import numbers
import random
import reprlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from genrank.decoding import DECODINGS
from genrank.decoding.checks import check_count
from genrank.engines.base import Engine
from genrank.errors import BudgetError, EngineError, GenrankError, InputError, OutputError
from genrank.inputs import at, make_candidates, make_history, make_query
from genrank.permutation import Permutation, mean_tau
from genrank.prompting import Prompt, Renderer, Template, load_template
from genrank.reasons import evidence, tidy, write_reasons
from genrank.types import (
    Candidate,
    Interaction,
    Listing,
    Provenance,
    Query,
    RankedItem,
    Ranking,
    Request,
    Tokens,
)
from genrank.windows import Interrupted, Ranked, Scores, Steps, Window, check_window, single, sliding

DEFAULT_PROMPTS = {"inline": "inline", "first-token": "listwise", "listwise": "listwise"}
"""The prompt template of each decoding, where none is named."""

MAX_PROMPT_TOKENS = 8192
"""The most tokens of one prompt, where neither the caller nor the model says less."""

Fallback = Callable[[Sequence[Request]], Sequence[Sequence[float]]]
"""A cheap ranker: ``[b]`` requests in, ``[b][n]`` finite scores out, one a candidate in the request's order; higher is
better. It runs in the caller's thread and no deadline stops it, so it should take milliseconds."""


class Reranker:
    """Re-orders candidates with a generative language model.

    Example:
        >>> reranker = Reranker("smollm2-135m", passes=2)
        >>> ranking = reranker.rerank("red summer dress", ["Blue wool coat", "Red cotton dress"])
        >>> [item.listing_id for item in ranking.items]
        ['1', '0']

    Args:
        model: A known name (`genrank.models`), a local folder or a hub name. Not used when `engine` is an `Engine`.
        adapter: Folder or hub name of a LoRA adapter.
        engine: ``transformers``, or an `Engine`.
        prompt: Name of a prompt template, path of a ``.toml`` file, or a `Template`; by default the decoding's own.
        decoding: ``inline``, ``first-token`` or ``listwise``; see `genrank.decoding`.
        strategy: ``sliding`` ranks lists longer than `window` in overlapping windows (arXiv 2304.09542); ``single``
            puts all candidates into one.
        window: Candidates in a window, at least 2.
        stride: Candidates by which the window moves, 1 to ``window - 1``.
        passes: How often each window is ranked, over differently ordered candidates: as they come, reversed, then
            shuffled by `seed`. Scores are averaged (after permutation self-consistency, arXiv 2310.07712).
        seed: Of the shuffles.
        max_prompt_tokens: The token budget of one prompt; by default what the model takes, at most 8,192.
        max_reason_tokens: The most tokens of one reason.
        fallback: Orders what the model could not, when the engine fails, the model misbehaves or the deadline passes;
            see `Fallback`. Without one, or where it fails, that stands in the first stage's order.

    Raises:
        InputError: When an argument is wrong.
        ConfigError: When the prompt template is not valid, or does not fit the decoding or the tokenizer.
        MissingExtraError: When the engine's packages are not installed.
        ModelError: When the model cannot be had or read.
    """

    def __init__(
        self,
        model: str = "smollm2-135m",
        *,
        adapter: str | None = None,
        engine: Literal["transformers"] | Engine = "transformers",
        prompt: str | Path | Template | None = None,
        decoding: Literal["inline", "first-token", "listwise"] = "inline",
        strategy: Literal["single", "sliding"] = "sliding",
        window: int = 20,
        stride: int = 10,
        passes: int = 1,
        seed: int = 0,
        max_prompt_tokens: int | None = None,
        max_reason_tokens: int = 40,
        fallback: Fallback | None = None,
    ) -> None:
        if decoding not in DECODINGS:
            raise InputError(f"must be one of {list(DECODINGS)}, got {decoding!r}", field="decoding")
        if strategy not in ("single", "sliding"):
            raise InputError(f"must be single or sliding, got {strategy!r}", field="strategy")
        _check_whole("window", window)
        _check_whole("stride", stride)
        check_window(window, stride)
        for name, number in (("passes", passes), ("max_reason_tokens", max_reason_tokens)):
            _check_whole(name, number, at_least=1)
        if fallback is not None and not callable(fallback):
            raise InputError(
                f"must be a function of requests that gives scores, got {type(fallback).__name__}", field="fallback"
            )
        if isinstance(prompt, Template):
            template = prompt
        else:
            template = load_template(prompt if prompt is not None else DEFAULT_PROMPTS[decoding])
        self.decoding = decoding
        self.strategy = strategy
        self.window = window
        self.stride = stride
        self.passes = passes
        self.seed = seed
        self.max_reason_tokens = max_reason_tokens
        self.fallback = fallback
        self.engine = _load_engine(engine, model, adapter)
        self._renderer = Renderer(template, self.engine.tokenizer)
        self._answer = self._renderer.answer
        template.check(inline=decoding == "inline")
        if decoding != "inline" and strategy == "sliding" and window > len(self._answer.identifiers):
            most = len(self._answer.identifiers)
            raise InputError(f"this tokenizer has {most} one-token identifiers, got {window}", field="window")
        longest = self._longest(window if strategy == "sliding" else 1)
        self.max_prompt_tokens = min(longest, MAX_PROMPT_TOKENS) if max_prompt_tokens is None else max_prompt_tokens
        if not 1 <= self.max_prompt_tokens <= longest:
            raise InputError(
                f"must be within 1..{longest} (the model takes {self.engine.context} tokens, answer included), "
                f"got {self.max_prompt_tokens}",
                field="max_prompt_tokens",
            )
        self._provenance = Provenance(
            model=self.engine.model,
            adapter=self.engine.adapter,
            prompt=f"{template.name}@{template.version}",
            prompt_hash=template.digest,
            engine=self.engine.name,
            decoding=decoding,
            strategy=strategy if strategy == "single" else f"sliding({window},{stride})",
            passes=passes,
        )

    def rerank(
        self,
        query: Query | str,
        candidates: Sequence[Candidate | Listing | Mapping[str, Any] | str],
        history: Sequence[Interaction | Mapping[str, Any]] = (),
        *,
        top_k: int | None = None,
        reasons: int = 0,
        deadline: float | None = None,
    ) -> Ranking:
        """Rank candidates for a query.

        Args:
            query: What the shopper typed.
            candidates: ``[n]`` in the first stage's order. A plain text is a title; its id is its place, 0-based.
            history: The shopper's past, oldest first.
            top_k: Return only so many items; by default all.
            reasons: Write a reason for so many of the first items.
            deadline: Seconds after which no further window is started. What has been ranked counts, the rest stands
                in the order of `fallback`, or else of the first stage.

        Returns:
            Every candidate exactly once (the first `top_k` of them). When the engine fails or the deadline passes,
            what no window ranked stands in the order of `fallback`, or else of the first stage, with
            ``provenance.outcome == "fallback"`` and why.

        Raises:
            InputError: When an argument is wrong; its `field` names it.
            BudgetError: When `max_prompt_tokens` cannot hold a window.
        """
        request = Request(make_query(query), make_candidates(candidates), make_history(history))
        return self.rerank_batch([request], top_k=top_k, reasons=reasons, deadline=deadline)[0]

    async def arerank(
        self,
        query: Query | str,
        candidates: Sequence[Candidate | Listing | Mapping[str, Any] | str],
        history: Sequence[Interaction | Mapping[str, Any]] = (),
        *,
        top_k: int | None = None,
        reasons: int = 0,
        deadline: float | None = None,
    ) -> Ranking:
        """`rerank` for asyncio: the same, in a worker thread, so that the event loop goes on."""
        return await asyncio.to_thread(
            self.rerank, query, candidates, history, top_k=top_k, reasons=reasons, deadline=deadline
        )

    def rerank_batch(
        self,
        requests: Iterable[Request],
        *,
        top_k: int | None = None,
        reasons: int = 0,
        deadline: float | None = None,
    ) -> list[Ranking]:
        """Rank several queries' candidates; all windows that are ready run as one batch of the engine.

        Args:
            requests: ``[b]``; make one of a JSON object with `genrank.parse_request`.
            top_k: See `rerank`.
            reasons: See `rerank`.
            deadline: See `rerank`; for the batch as a whole.

        Returns:
            ``[b]`` rankings, in the requests' order.

        Raises:
            InputError: When an argument is wrong; its `field` names it.
            BudgetError: When `max_prompt_tokens` cannot hold a window.
        """
        self.check_options(top_k=top_k, reasons=reasons, deadline=deadline)
        started = time.monotonic()
        ends = started + deadline if deadline is not None else float("inf")
        calls = [self._start(i, request) for i, request in enumerate(requests)]
        while ready := [call for call in calls if call.windows]:
            if time.monotonic() >= ends:
                for call in ready:
                    call.interrupt(f"the deadline of {deadline:g} s passed")
            else:
                self._advance(ready)
        if interrupted := [call for call in calls if call.why]:
            self._order_unranked(interrupted)
        if reasons:
            self._write_reasons(calls, reasons, ends)
        seconds = time.monotonic() - started
        return [self._ranking(call, top_k, seconds) for call in calls]

    def check_options(self, *, top_k: int | None = None, reasons: int = 0, deadline: float | None = None) -> None:
        """Refuse options of a call that are wrong whatever the request.

        Raises:
            InputError: When one is wrong; its `field` names it.
        """
        if top_k is not None:
            _check_whole("top_k", top_k, at_least=1)
        _check_whole("reasons", reasons)
        if reasons < 0:
            raise InputError(f"must not be negative, got {reasons}", field="reasons")
        if reasons and not self._renderer.template.reason:
            raise InputError(f"prompt template {self._renderer.template.name} has no reason prompt", field="reasons")
        if deadline is not None and not (isinstance(deadline, (int, float)) and deadline > 0):
            raise InputError(f"must be a positive number of seconds, got {deadline!r}", field="deadline")

    def _start(self, i: int, request: Request) -> _Call:
        if not isinstance(request, Request):
            raise InputError(f"must be a Request, got {type(request).__name__}", field=f"requests[{i}]")
        with at(f"requests[{i}]"):
            make_candidates(request.candidates)  # at least one, and no id twice
        places = range(len(request.candidates))
        return _Call(
            request, single(places) if self.strategy == "single" else sliding(places, self.window, self.stride)
        )

    def _advance(self, calls: Sequence[_Call]) -> None:
        """Rank all windows that are ready, over all passes, as one batch, and hand the scores to the strategies."""
        jobs = [(call, order) for call in calls for window in call.windows for order in self._presentations(window)]
        prompts = [self._render(call.request, order) for call, order in jobs]
        try:
            scored = DECODINGS[self.decoding](self.engine, prompts, self._answer)
        except EngineError as error:
            for call in calls:
                call.interrupt(f"the engine failed: {error}")
            return
        except OutputError as error:
            if len(calls) == 1:
                calls[0].interrupt(f"the model misbehaved: {error}")
            else:  # one query's bad answer is no other's
                for call in calls:
                    self._advance([call])
            return
        answers = iter(zip(jobs, prompts, scored, strict=True))
        for call in calls:
            window_scores = []
            for window in call.windows:
                totals = dict.fromkeys(window, 0.0)
                orders = []
                for (_, order), prompt, (scores, tokens) in itertools.islice(answers, self.passes):
                    call.tokens += tokens
                    call.cuts.update(prompt.cuts)
                    orders.append(Permutation.from_scores(scores).apply(order))
                    for place, score in zip(order, scores, strict=True):
                        totals[place] += score / self.passes
                if (tau := mean_tau(orders)) is not None:
                    call.taus.append(tau)
                window_scores.append([min(1.0, totals[place]) for place in window])
            call.advance(window_scores)

    def _order_unranked(self, calls: Sequence[_Call]) -> None:
        """Order what no window ranked by `fallback`, where there is something to order, and say whose order it is."""
        asked = [call for call in calls if len(call.unranked) > 1] if self.fallback else []
        answers = _ask(self.fallback, [call.request for call in asked]) if self.fallback and asked else []
        whose = dict.fromkeys(calls, "first stage's")
        for call, answer in zip(asked, answers, strict=True):
            if isinstance(answer, str):
                call.why += f"; the fallback failed: {answer}"
            else:
                call.order_unranked(answer)
                whose[call] = "fallback's"
        for call in calls:
            call.why += f"; what no window ranked stands in the {whose[call]} order"

    def _longest(self, candidates: int) -> int:
        """The most prompt tokens that leave room for the answer."""
        answer = 0 if self.decoding == "inline" else candidates * (1 + len(self._answer.between))
        return self.engine.context - answer

    def _presentations(self, window: Window) -> list[Window]:
        """The window's places in the order in which each pass shows them."""
        orders = [window, window[::-1]][: self.passes]
        for number in range(2, self.passes):
            shuffled = list(window)
            random.Random(f"{self.seed}:{number}").shuffle(shuffled)
            orders.append(tuple(shuffled))
        return orders

    def _render(self, request: Request, order: Window) -> Prompt:
        return self._renderer.render(
            request.query,
            [request.candidates[place] for place in order],
            request.history,
            max_tokens=min(self.max_prompt_tokens, self._longest(len(order))),
            inline=self.decoding == "inline",
        )

    def _write_reasons(self, calls: Sequence[_Call], count: int, ends: float) -> None:
        """Write reasons for the first `count` items of every call, as one batch."""
        if time.monotonic() >= ends:
            for call in calls:
                call.repairs.append("no reasons: the deadline passed")
            return
        wanted = [(call, place) for call in calls for place in call.order[:count]]
        pairs = [(call.request.query, call.request.candidates[place].listing) for call, place in wanted]
        try:
            results = write_reasons(
                self.engine,
                self._renderer,
                pairs,
                max_tokens=self.max_reason_tokens,
                max_prompt=min(self.max_prompt_tokens, self.engine.context - self.max_reason_tokens),
            )
            check_count(results, pairs)
        except (EngineError, OutputError, BudgetError) as error:
            for call in calls:
                call.repairs.append(f"no reasons: {_blame(error)}: {error}")
            return
        for (call, place), (_, listing), result in zip(wanted, pairs, results, strict=True):
            call.tokens += result.tokens
            reason = tidy(result.text)
            if reason:
                call.reasons[place] = (reason, evidence(reason, listing, call.request.history))
            else:
                call.repairs.append(f"no reason for {listing.listing_id}: the model wrote nothing")

    def _ranking(self, call: _Call, top_k: int | None, seconds: float) -> Ranking:
        items = []
        candidates = call.request.candidates
        for rank, (place, score) in enumerate(zip(call.order, call.falling_scores(), strict=True), start=1):
            candidate = candidates[place]
            reason, fields = call.reasons.get(place, (None, ()))
            source_rank = candidate.rank if candidate.rank is not None else place + 1
            items.append(RankedItem(candidate.listing.listing_id, rank, score, source_rank, reason, fields))
        provenance = dataclasses.replace(
            self._provenance,
            outcome="fallback" if call.why else "repaired" if call.repairs else "model",
            why=call.why,
            repairs=tuple(call.repairs),
            windows=call.ranked * self.passes,
            agreement=sum(call.taus) / len(call.taus) if call.taus else None,
            tokens=call.tokens,
            cuts=dict(call.cuts),
            seconds=seconds,
        )
        return Ranking(call.request.query.query_id, tuple(items[:top_k]), provenance)


class _Call:
    """One query on its way through a batch."""

    def __init__(self, request: Request, steps: Steps) -> None:
        self.request = request
        self.windows: list[Window] = next(steps)  # ready to be ranked; empty when done
        self.order: Sequence[int] = range(len(request.candidates))
        self.scores: Mapping[int, float] = {}
        self.why = ""
        self.ranked = 0
        self.repairs: list[str] = []
        self.tokens = Tokens()
        self.cuts: Counter[str] = Counter()
        self.taus: list[float] = []
        self.reasons: dict[int, tuple[str, tuple[str, ...]]] = {}
        self._steps = steps

    def advance(self, scores: Sequence[Scores]) -> None:
        """Take the scores of the ready windows."""
        self.ranked += len(self.windows)
        try:
            self.windows = self._steps.send(scores)
        except StopIteration as stop:
            self._finish(stop.value)

    def interrupt(self, why: str) -> None:
        """Give up on the windows that are left, and keep what has been ranked."""
        self.why = why
        try:
            self._steps.throw(Interrupted())
        except StopIteration as stop:
            self._finish(stop.value)

    @property
    def unranked(self) -> list[int]:
        """Places that no finished window held, in the order in which they stand."""
        return [place for place in self.order if place not in self.scores]

    def order_unranked(self, scores: Sequence[float]) -> None:
        """Sort what no finished window held by ``[n]`` scores; ranked places, and equal scores, stay where they are."""
        by_score = iter(sorted(self.unranked, key=lambda place: -scores[place]))
        self.order = [place if place in self.scores else next(by_score) for place in self.order]

    def falling_scores(self) -> list[float]:
        """Scores in the ranking's order, never rising.

        A score that exceeds the one before it (from another window, read beside other candidates) is lowered to
        it. Where windows were never ranked, scores only say the place, ``(n - place) / n``.
        """
        n = len(self.order)
        if len(self.scores) < n:
            return [(n - i) / n for i in range(n)]
        return list(itertools.accumulate((self.scores[place] for place in self.order), min))

    def _finish(self, ranked: Ranked) -> None:
        self.windows = []
        self.order, self.scores = ranked.order, ranked.scores


def _blame(error: GenrankError) -> str:
    match error:
        case EngineError():
            return "the engine failed"
        case OutputError():
            return "the model misbehaved"
    return "no room"


def _ask(fallback: Fallback, requests: Sequence[Request]) -> list[list[float] | str]:
    """The fallback's scores for each request, or what is wrong with them.

    It is somebody else's code: it may raise anything and answer with any type, and nothing may be lost for it.
    """
    try:
        answers = list(fallback(requests))
    except Exception as error:
        return [f"{type(error).__name__}: {error}"] * len(requests)
    if len(answers) != len(requests):
        return [f"it gave {len(answers)} answers to {len(requests)} requests"] * len(requests)
    return [_read_scores(answer, len(request.candidates)) for answer, request in zip(answers, requests, strict=True)]


def _read_scores(answer: Sequence[float], count: int) -> list[float] | str:
    try:
        scores = list(answer)
        if len(scores) != count:
            return f"it gave {len(scores)} scores for {count} candidates"
        for score in scores:
            if not isinstance(score, numbers.Real) or isinstance(score, bool) or not math.isfinite(score):
                return f"it gave the score {reprlib.repr(score)}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return scores


def _check_whole(name: str, number: object, at_least: int | None = None) -> None:
    if not isinstance(number, int) or isinstance(number, bool):
        raise InputError(f"must be a whole number, got {number!r}", field=name)
    if at_least is not None and number < at_least:
        raise InputError(f"must be at least {at_least}, got {number}", field=name)


def _load_engine(engine: Literal["transformers"] | Engine, model: str, adapter: str | None) -> Engine:
    if engine == "transformers":
        from genrank.engines.transformers import TransformersEngine

        return TransformersEngine(model, adapter=adapter)
    if engine is None or isinstance(engine, str):
        raise InputError(f"must be transformers or an Engine, got {engine!r}", field="engine")
    return engine
