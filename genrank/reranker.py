"""The reranker: takes a query, a history and candidates, and returns a complete ranking with its provenance."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import heapq
import json
import numbers
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, cast, get_args

from genrank.adapters import load_manifest, pinned
from genrank.blending import is_weight, stored_blend
from genrank.calibration import Calibration, load_calibration, stored_calibration
from genrank.decoding import DECODINGS, Scored
from genrank.engines.base import Closing, Engine
from genrank.errors import BudgetError, ConfigError, EngineError, InputError, OutputError, shown
from genrank.fallback import Fallback
from genrank.inputs import items, make_request, whole_number
from genrank.models.registry import DEFAULT_MODEL
from genrank.permutation import Permutation, mean_tau
from genrank.pictures import Picture, PictureLoader, Pictures
from genrank.prompting.history import usefulness
from genrank.prompting.renderer import Prompt, Renderer
from genrank.prompting.template import Template, load_template
from genrank.reasons.write import Reason, ReasonRequest, ask_reasons, read_reasons, warm_up
from genrank.scheduling import Deadline, FallbackCall, Loop, PictureCall, QueryState, adrive, drive
from genrank.types import (
    Candidate,
    Cause,
    Decoding,
    Dtype,
    Intent,
    Interaction,
    Listing,
    Pictured,
    Provenance,
    Query,
    RankedItem,
    Ranking,
    Request,
    Strategy,
    Tokens,
)
from genrank.warming import Report, Warmed, snapshot_binding, warm
from genrank.windows import Window, check_window, each, single, sliding, tournament, tournament_sizes

Candidates = Sequence[Candidate | Listing | Mapping[str, Any] | str]
"""What a caller may pass as candidates."""

History = Sequence[Interaction | Mapping[str, Any]]
"""What a caller may pass as a history."""

DEFAULT_PROMPTS: Mapping[Decoding, str] = {
    "pointwise": "pointwise",
    "inline": "inline",
    "first-token": "listwise",
    "listwise": "listwise",
}
"""Each decoding's default prompt template."""

DEFAULT_PASSES: Mapping[Decoding, int] = {"pointwise": 1, "inline": 2, "first-token": 2, "listwise": 1}
"""Each decoding's default number of passes; two opposite orders cancel most of the position bias."""

DEFAULT_WINDOW = 20
"""The default number of candidates in a window."""

MAX_PROMPT_TOKENS = 8192
"""The default limit of one prompt, in tokens, unless the model takes fewer."""

MOST_PAST = 32
"""The most interactions that reasons may mention; checking claims against a long history would take seconds."""

TOURNAMENT_TOP = 10
"""How many top items a tournament looks for by default."""

_NAMING = ("first-token", "listwise")  # decodings whose answers name candidates


class Reranker(Closing):
    """Re-orders candidates with a generative language model.

    Examples:
        >>> reranker = Reranker()
        >>> ranking = reranker.rerank("red summer dress", ["Blue wool coat", "Red cotton dress"])
        >>> [item.listing_id for item in ranking.items]
        ['1', '0']

    If the reranker loaded its model itself, `close` frees it; ``with Reranker(...) as reranker:`` and ``async with``
    call `close` at their end.

    Args:
        model: A known name (`genrank.models`), a local folder or a hub name; by default
            `genrank.models.registry.DEFAULT_MODEL`.
        adapter: Folder or hub name of a LoRA adapter. A link such as ``adapters/current`` is followed once
            (`genrank.models.versions`), and the provenance names the version.
        engine: ``transformers``; ``vllm``; the address of a server, such as ``http://127.0.0.1:8000/v1``, whose kind is
            found by asking it (`genrank.remote.connect`); or an `Engine`, which already has its model and adapter and
            is not closed with the reranker.
        dtype: Number format of the weights: ``auto`` takes what the machine computes in best; ``int8``, on a CPU with
            transformers, is somewhat faster and smaller, with scores that differ a little. An `Engine` and a server
            have their own.
        prompt: Name of a prompt template, path of a ``.toml`` file, or a `Template`; by default the one the adapter was
            trained with, or else the decoding's default.
        decoding: ``pointwise``, ``inline``, ``first-token`` or ``listwise``; see `genrank.decoding`. By default the one
            with which the adapter ranks best (`genrank.adapters.Served`), or else the first that suits adapter and
            prompt, in this order.
        strategy: ``sliding``, the default, ranks lists longer than `window` in overlapping windows (arXiv 2304.09542);
            ``tournament`` finds their top in fewer windows, most of them in parallel (after arXiv 2406.11678);
            ``single`` puts all candidates into one. ``pointwise`` needs no windows: its only strategy is ``each``.
        window: Candidates in a window, at least 2; by default `DEFAULT_WINDOW`. ``single`` ignores it; ``pointwise``
            takes none.
        stride: Candidates by which the window of ``sliding`` moves, 1 to ``window - 1``; by default half the window.
            Other strategies ignore it; ``pointwise`` takes none.
        passes: How often each window is ranked, each time with its candidates in another order: as they come, reversed,
            then shuffled with `seed`. Scores are averaged (after permutation self-consistency, arXiv 2310.07712). By
            default the adapter's best number for its best decoding, or else 2, but 1 for ``listwise``; ``pointwise``
            takes only 1.
        seed: Seed of the shuffles.
        max_prompt_tokens: The token budget of one prompt; by default as many as the model takes, at most 8,192.
        max_reason_tokens: The most tokens of one reason.
        fallback: Orders the candidates that the model did not rank because the engine failed, the model misbehaved or
            the deadline passed; see `Fallback`. Without one, or if it fails, they keep the first stage's order.
        calibration: Turns scores into probabilities, see `genrank.calibration`: a `Calibration`, or the path where one
            is stored; by default the adapter's own, if it has one for this decoding, prompt and model. False turns it
            off.
        blend: Orders by a weighted sum of the model's scores and the first stage's (`Candidate.score`), see
            `genrank.blending`. A number is the model's weight, 0 to 1, and every candidate must have a score. By
            default the adapter's own weight, if it has one for this decoding, prompt and model, in requests whose
            candidates all have a score; without one nothing is blended. False turns it off. A ranking whose outcome is
            ``fallback`` is not blended.
        pictures: Where pictures of the listings may come from (`genrank.pictures`), for a model that looks at pictures,
            with ``pointwise``: on a server that is asked in chat messages, or with transformers. None, the default,
            fetches nothing. A listing whose picture cannot be had is ranked without; `Provenance.pictures` counts.
        neutralise: Whether to remove text that the model could take for instructions or for its own words. Turn it off
            only to measure its effect.
        check_adapter: Whether to refuse an adapter whose manifest (`genrank.adapters`) says that it was trained with
            another prompt or on another model, or not for this decoding.
        trust_remote_code: Whether to run code in the model's folder; read it first.

    Raises:
        InputError: When an argument is wrong.
        ConfigError: When the prompt template is not valid or does not fit the decoding or the tokenizer, or the
            calibration or the adapter does not fit.
        MissingExtraError: When the engine's packages are not installed.
        ModelError: When the model cannot be found, fetched or read.
        EngineError: When a server does not answer, or cannot serve the model.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        adapter: str | None = None,
        engine: str | Engine = "transformers",
        dtype: Dtype = "auto",
        prompt: str | Path | Template | None = None,
        decoding: Decoding | None = None,
        strategy: Strategy | None = None,
        window: int | None = None,
        stride: int | None = None,
        passes: int | None = None,
        seed: int = 0,
        max_prompt_tokens: int | None = None,
        max_reason_tokens: int = 40,
        fallback: Fallback | None = None,
        calibration: Calibration | str | Path | Literal[False] | None = None,
        blend: float | Literal[False] | None = None,
        pictures: Pictures | None = None,
        neutralise: bool = True,
        check_adapter: bool = True,
        trust_remote_code: bool = False,
    ) -> None:
        if decoding is not None and decoding not in get_args(Decoding):
            raise InputError(f"must be one of {list(get_args(Decoding))}, got {decoding!r}", field="decoding")
        _check_engine(engine, model, adapter, dtype, trust_remote_code)
        adapter = None if adapter is None else pinned(adapter)
        allowed = _check_pictures(pictures, engine)
        if calibration is not False:
            _check_place("calibration", calibration, Calibration)
        if blend is not None and blend is not False and not is_weight(blend):
            raise InputError(f"must be a number within 0..1, or False, got {shown(blend)}", field="blend")
        self.seed: int = whole_number("seed", seed)
        self.max_reason_tokens: int = whole_number("max_reason_tokens", max_reason_tokens, at_least=1)
        if fallback is not None and not callable(fallback):
            raise InputError(
                f"must be a function of requests that gives scores, got {type(fallback).__name__}", field="fallback"
            )
        self.fallback = fallback
        self._owns_engine = isinstance(engine, str)
        self._closed = False
        if isinstance(engine, str) and is_address(engine):
            from genrank.remote.connect import connect

            engine = connect(
                engine, model, adapter=adapter, pictures=allowed is not None, trust_remote_code=trust_remote_code
            )
        self._loader: PictureLoader | None = None
        try:
            self._loader = PictureLoader(allowed) if allowed else None
            used = adapter if isinstance(engine, str) else engine.adapter
            self.decoding = _decoding(decoding, engine, used, prompt)
            if allowed and self.decoding != "pointwise":
                raise InputError(
                    f"are shown with decoding pointwise, one prompt a listing, got {self.decoding}; pass "
                    "decoding='pointwise', or leave pictures out",
                    field="pictures",
                )
            self.strategy = _strategy(self.decoding, strategy, window=window, stride=stride, passes=passes)
            passes = _served_passes(self.decoding, used) if passes is None else passes
            self.window: int
            self.stride: int
            self.window, self.stride = _sizes(self.strategy, window, stride)
            self.passes: int = whole_number("passes", passes, at_least=1)
            template = _find_template(prompt, self.decoding, used, check_adapter)
            self.engine: Engine
            engine = self.engine = _load_engine(
                engine,
                DEFAULT_MODEL if model is None else model,
                adapter,
                dtype,
                check_adapter,
                trust_remote_code,
                allowed is not None,
            )
            self._picture_tokens = _picture_tokens(self.engine, allowed) if allowed else 0
            self._set_up(template, max_prompt_tokens, calibration, blend, neutralise=neutralise)
        except BaseException:
            self._close(engine)
            raise

    def _set_up(
        self,
        template: Template,
        max_prompt_tokens: int | None,
        calibration: Calibration | str | Path | Literal[False] | None,
        blend: float | Literal[False] | None,
        *,
        neutralise: bool,
    ) -> None:
        """Set up everything that depends on the engine's model and tokenizer."""
        decoding, window = self.decoding, self.window
        self._neutralises = neutralise
        self._renderer = Renderer(template, self.engine.tokenizer, neutralise=neutralise)
        self._answer = self._renderer.answer
        template.check(decoding)
        if decoding in _NAMING and self.strategy != "single" and window > len(self._answer.identifiers):
            most = len(self._answer.identifiers)
            raise InputError(f"this tokenizer has {most} one-token identifiers, got {window}", field="window")
        longest = self._longest(window if self.strategy != "single" else 1)
        if max_prompt_tokens is None:
            max_prompt_tokens = min(longest, MAX_PROMPT_TOKENS)
        self.max_prompt_tokens: int = whole_number("max_prompt_tokens", max_prompt_tokens)
        if not 1 <= self.max_prompt_tokens <= longest:
            raise InputError(
                f"must be within 1..{longest} (the model takes {self.engine.context} tokens, answer included), "
                f"got {self.max_prompt_tokens}",
                field="max_prompt_tokens",
            )
        if template.reason:
            warm_up()
        use = {"decoding": decoding, "prompt_hash": template.digest, "model": self.engine.model}
        self._calibration = _find_calibration(calibration, self.engine.adapter, use)
        self._must_blend = blend is not None and blend is not False
        self._weight = _find_weight(blend, self.engine.adapter, use)
        self._provenance = Provenance(
            model=self.engine.model,
            adapter=self.engine.adapter,
            prompt=f"{template.name}@{template.version}",
            prompt_hash=template.digest,
            decoding=decoding,
            strategy=self.strategy,
            window=window if self.strategy in ("sliding", "tournament") else None,
            stride=self.stride if self.strategy == "sliding" else None,
            passes=self.passes,
            calibration=self._calibration.fitted_on if self._calibration else None,
        )

    @property
    def template(self) -> Template:
        """The prompt template."""
        return self._renderer.template

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of all that decides a ranking except the request.

        Two rerankers with the same one rank alike, as long as the names of their models and adapters mean the same
        weights. The fallback is not part of it.
        """
        settings: dict[str, Any] = {
            "provenance": dataclasses.asdict(self._provenance),
            "calibration": self._calibration and dataclasses.asdict(self._calibration),
            "blend": self._weight,
            "dtype": getattr(self.engine, "dtype_name", ""),
            "seed": self.seed,
            "max_prompt_tokens": self.max_prompt_tokens,
            "max_reason_tokens": self.max_reason_tokens,
            "neutralise": self._neutralises,
        }
        if self._loader is None:  # the same as before there were any
            del settings["provenance"]["pictures"]
        else:
            settings["pictures"] = dataclasses.asdict(self._loader.pictures)
        return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def close(self) -> None:
        """Free the model if the reranker loaded it itself; later calls raise an error. Closing twice does no harm."""
        self._closed = True
        self._close(self.engine)

    def _close(self, engine: object) -> None:
        if self._loader is not None:
            self._loader.close()
        close = getattr(engine, "close", None)
        if self._owns_engine and close is not None:
            close()

    def rerank(
        self,
        query: Query | str,
        candidates: Candidates,
        history: History = (),
        *,
        intent: Intent | Mapping[str, Any] | None = None,
        top_k: int | None = None,
        reasons: int = 0,
        deadline: float | None = None,
    ) -> Ranking:
        """Rank candidates for a query.

        Args:
            query: What the shopper typed.
            candidates: ``[n]`` in the first stage's order. A plain text is a title; its id is its position, 0-based.
            history: The shopper's past; times decide the order, see `genrank.prompting.history.time_order`.
            intent: What the query means, or what `Intent.to_dict` returns, for a prompt template that says so, such as
                ``pointwise-intent``; any other ignores it.
            top_k: How many items to return; by default all. A ``tournament`` looks for this many top items, by default
                10.
            reasons: How many of the first items get a reason.
            deadline: Seconds from the call to the answer, rendering included. When they have passed, the windows ranked
                so far count, and the other candidates come in the order of `fallback`, or else of the first stage. An
                engine that is still working is abandoned `genrank.scheduling.GRACE` seconds later, and `fallback`
                after `genrank.scheduling.fallback_seconds` more.

        Returns:
            Every candidate exactly once (or the first `top_k` of them). When the engine fails or the deadline passes,
            the candidates that no window ranked come in the order of `fallback`, or else of the first stage. The
            outcome is then ``fallback``; `Provenance.stand_in` says whose order that is, and `Provenance.cause` and
            `Provenance.why` hold the reason.

        Raises:
            InputError: When an argument is wrong; its `field` names it.
            EngineError: When the reranker is closed.
            BudgetError: When `max_prompt_tokens` cannot hold a window.
        """
        until = self._begin(top_k, reasons, deadline)
        request = make_request(query, candidates, history, intent)
        return drive(self._loop([request], top_k, reasons, until), self.engine, until)[0]

    async def arerank(
        self,
        query: Query | str,
        candidates: Candidates,
        history: History = (),
        *,
        intent: Intent | Mapping[str, Any] | None = None,
        top_k: int | None = None,
        reasons: int = 0,
        deadline: float | None = None,
    ) -> Ranking:
        """`rerank` for asyncio: does the same without blocking the event loop.

        An engine that can be awaited (`genrank.engines.base.AsyncEngine`, such as vLLM's) is awaited; any other runs in
        a thread. When the task is cancelled, the engine drops the work, at the latest before its next forward pass.
        """
        until = self._begin(top_k, reasons, deadline)
        request = make_request(query, candidates, history, intent)
        return (await adrive(self._loop([request], top_k, reasons, until), self.engine, until))[0]

    def rerank_batch(
        self,
        requests: Iterable[Request],
        *,
        top_k: int | None = None,
        reasons: int = 0,
        deadline: float | None = None,
    ) -> list[Ranking]:
        """Rank the candidates of several queries; all windows that are ready run as one engine batch.

        Args:
            requests: ``[b]``; `genrank.parse_request` makes one from a JSON object.
            top_k: See `rerank`.
            reasons: See `rerank`.
            deadline: See `rerank`; for the batch as a whole.

        Returns:
            ``[b]`` rankings, in the requests' order.

        Raises:
            InputError: When an argument is wrong; its `field` names it.
            BudgetError: When `max_prompt_tokens` cannot hold a window.
            EngineError: When the reranker is closed.
        """
        until = self._begin(top_k, reasons, deadline)
        return drive(self._loop(requests, top_k, reasons, until), self.engine, until)

    async def arerank_batch(
        self,
        requests: Iterable[Request],
        *,
        top_k: int | None = None,
        reasons: int = 0,
        deadline: float | None = None,
    ) -> list[Ranking]:
        """`rerank_batch` for asyncio; see `arerank`."""
        until = self._begin(top_k, reasons, deadline)
        return await adrive(self._loop(requests, top_k, reasons, until), self.engine, until)

    def warm(
        self,
        listings: Iterable[Listing | Mapping[str, Any] | str],
        *,
        snapshot: str | PathLike[str] | None = None,
        deadline: float | None = None,
        report: Report | None = None,
    ) -> Warmed:
        """Read listings before anyone searches for them; a query then costs only its own tokens for each candidate.

        Needs decoding ``pointwise`` and a prompt template that begins with the listing. A listing that has changed
        since is read again when it comes up: nothing old is ever used.

        Args:
            listings: All that a snapshot is to hold; without a snapshot, any.
            snapshot: A file beside the catalogue, which is mapped into memory. What it holds of these listings is
                used; what is new or changed is read, what is gone is dropped, and the file is written again. One that
                was made with another model, adapter, prompt or dtype is rebuilt. A restart with the same call is warm
                at once. Without it, listings are kept in memory alone, the latest ones as far as the engine's budget
                goes.
            deadline: Seconds after which to stop; what was read by then is kept.
            report: Told how many listings were finished since it was told last.

        Raises:
            InputError: When an argument is wrong, or the engine cannot do this.
            ConfigError: When the template does not begin with the listing.
            DataFormatError: When the snapshot is not a whole one.
            EngineError: When the engine fails, or the reranker is closed.
            OSError: When the snapshot cannot be written.
        """
        self._begin(None, 0, deadline)
        if self._loader is not None:
            raise ConfigError(
                "a listing with a picture is read again for each query; create a reranker without pictures"
            )
        if self.decoding != "pointwise":
            raise ConfigError(f"decoding {self.decoding} reads whole lists; listings are kept for pointwise only")
        most = min(self.max_prompt_tokens, self._longest(1))
        return warm(
            self.engine,
            self._renderer,
            listings,
            max_tokens=most,
            snapshot=snapshot,
            deadline=deadline,
            report=report,
        )

    def open_snapshot(self, path: str | PathLike[str]) -> int:
        """Use the listings in a snapshot that `warm` wrote; returns how many there are.

        Raises:
            InputError: When the engine has no snapshots.
            ConfigError: When there is none, or it was made with another model, adapter, prompt or dtype; names which.
            DataFormatError: When it is not a whole one.
        """
        bound = snapshot_binding(self.engine, self._renderer)
        engine: Any = self.engine
        return len(engine.open_snapshot(path, bound))

    def first_prompts(self, request: Request) -> list[Callable[[], Prompt]]:
        """The prompts of the first batch that a call with this request sends to the engine, for showing them.

        Under ``pointwise`` and ``single`` these are all prompts there are. What later windows hold depends on the
        answers to the first ones.

        Returns:
            For each window and pass, a function that renders its prompt; it may raise a `BudgetError`.

        Raises:
            InputError: When the request cannot be ranked.
        """
        state = self._start(0, request, None)
        orders = [order for window in state.windows for order in self._presentations(window)]
        return [functools.partial(self._render, state, order) for order in orders]

    def check_options(self, *, top_k: int | None = None, reasons: int = 0, deadline: float | None = None) -> None:
        """Check the options of a call that do not depend on the request.

        Raises:
            InputError: When one is wrong; its `field` names it.
        """
        if top_k is not None:
            whole_number("top_k", top_k, at_least=1)
        if whole_number("reasons", reasons) < 0:
            raise InputError(f"must not be negative, got {reasons}", field="reasons")
        if reasons and not self._renderer.template.reason:
            raise InputError(f"prompt template {self._renderer.template.name} has no reason prompt", field="reasons")
        if deadline is not None and not _is_time(deadline):
            raise InputError(f"must be a positive number of seconds, got {shown(deadline)}", field="deadline")
        if self.strategy == "tournament" and top_k is not None:
            tournament_sizes(1, self.window, top_k)

    def _begin(self, top_k: int | None, reasons: int, deadline: float | None) -> Deadline:
        """Check a call's options, and start its clock."""
        started = time.monotonic()
        if self._closed:
            raise EngineError("the reranker is closed; create a new one")
        self.check_options(top_k=top_k, reasons=reasons, deadline=deadline)
        return Deadline(deadline, started)

    def _loop(
        self, requests: Iterable[Request], top_k: int | None, reasons: int, deadline: Deadline
    ) -> Loop[list[Ranking]]:
        """`rerank_batch` as a loop for `genrank.scheduling`."""
        top_k = None if top_k is None else int(top_k)
        states = [self._start(i, request, top_k) for i, request in enumerate(items(requests, "requests", "Request"))]
        if self._loader is not None:
            yield from self._load_pictures(self._loader, states)
        while ready := [state for state in states if state.windows]:
            if deadline.passed():
                for state in ready:
                    state.interrupt(*deadline.blame)
            else:
                yield from self._advance(ready, deadline)
        if interrupted := [state for state in states if state.why]:
            yield from self._order_unranked(interrupted)
        for state in states:
            self._blend(state)
        if reasons:
            yield from self._write_reasons(states, reasons, deadline)
        return [self._ranking(state, top_k, deadline) for state in states]

    def _load_pictures(self, loader: PictureLoader, states: Sequence[QueryState]) -> Loop[None]:
        """Load the pictures of all candidates, each once."""
        listings = [candidate.listing for state in states for candidate in state.request.candidates]
        addresses = list(dict.fromkeys(listing.image_url for listing in listings if listing.image_url))
        try:
            loaded = (yield PictureCall(loader, addresses)) if addresses else {}
        except EngineError:  # closed meanwhile, and so is the engine
            loaded = dict.fromkeys(addresses, "timeout")
        for state in states:
            state.pictures = loaded

    def _start(self, i: int, request: object, top_k: int | None) -> QueryState:
        if not isinstance(request, Request):
            raise InputError(f"must be a Request, got {type(request).__name__}", field=f"requests[{i}]")
        if self._must_blend:
            _check_scores(request, self._weight)
        prepared = self._renderer.prepare(request.query, request.candidates, request.history, request.intent)
        places = range(len(request.candidates))
        match self.strategy:
            case "each":
                return QueryState(request, each(places), prepared)
            case "single":
                return QueryState(request, single(places), prepared)
            case "tournament":
                return QueryState(request, tournament(places, self.window, self._top(top_k)), prepared)
        return QueryState(request, sliding(places, self.window, self.stride), prepared)

    def _top(self, top_k: int | None) -> int:
        """How many top items a tournament looks for."""
        return top_k or min(TOURNAMENT_TOP, self.window)

    def _advance(self, states: Sequence[QueryState], deadline: Deadline) -> Loop[None]:
        """Rank all windows that are ready, in all passes, as one batch, and send the scores to the strategies."""
        jobs = [
            (state, i, order)
            for state in states
            for i, window in enumerate(state.windows)
            for order in self._presentations(window)
        ]
        prompts = []
        for state, _, order in jobs:
            if deadline.passed():
                break
            prompts.append(self._render(state, order))
        decode = DECODINGS[self.decoding]
        scored: Sequence[Scored | None] = []
        try:
            if prompts and not deadline.passed():
                results = yield decode.ask(prompts, self._answer)
                scored = decode.read(prompts, self._answer, results)
        except EngineError as error:
            for state in states:
                state.interrupt("engine-error", f"the engine failed: {error}")
            return
        except OutputError as error:
            if len(states) == 1:
                states[0].interrupt("bad-output", f"the model misbehaved: {error}")
            else:  # one query's bad answer must not affect the others
                for state in states:
                    yield from self._advance([state], deadline)
            return
        shown: dict[tuple[QueryState, int], list[_Shown]] = {}
        for (state, i, order), prompt, answer in zip(jobs, prompts, scored, strict=False):  # rendering may have ended
            if answer is not None:
                shown.setdefault((state, i), []).append(_Shown(order, prompt, *answer))
        for state in states:
            finished = {
                i: self._merge(state, window, shown[state, i])
                for i, window in enumerate(state.windows)
                if (state, i) in shown
            }
            if len(finished) < len(state.windows):
                state.interrupt(*deadline.blame, finished)
            else:
                state.advance(list(finished.values()))

    def _merge(self, state: QueryState, window: Window, shown: Sequence[_Shown]) -> list[float]:
        """Scores of a window from the passes that were answered; records their costs in the query's state."""
        totals = dict.fromkeys(window, 0.0)
        for one in shown:
            state.tokens += one.tokens
            state.cuts.update(one.prompt.cuts)
            state.neutralised += one.prompt.neutralised
            state.kept += one.found
            state.pictures_used += one.prompt.picture is not None
            if one.repairs:
                state.repaired(one.repairs)
            for place, score in zip(one.order, one.scores, strict=True):
                totals[place] += score / len(shown)
        if len(shown) > 1:
            tau = mean_tau([Permutation.from_scores(one.scores).apply(one.order) for one in shown])
            state.taus += [tau] if tau is not None else []
        state.ranked += len(shown)
        return self._calibrated([min(1.0, totals[place]) for place in window])

    def _calibrated(self, scores: list[float]) -> list[float]:
        return self._calibration.apply(scores) if self._calibration else scores

    def _order_unranked(self, states: Sequence[QueryState]) -> Loop[None]:
        """Order the unranked candidates with `fallback`, and record in `why` whose order they are in.

        One alone has no order, so the fallback is not asked for it.
        """
        asked = [state for state in states if len(state.unranked) > 1] if self.fallback else []
        answers: list[list[float] | str] = []
        if self.fallback and asked:
            answers = yield FallbackCall(self.fallback, [state.request for state in asked])
        for state, answer in zip(asked, answers, strict=True):
            if isinstance(answer, str):
                state.why += f"; the fallback failed: {answer}"
            else:
                state.order_unranked(answer)
                state.stand_in = "baseline"
        for state in states:
            state.stand_in = state.stand_in or "first-stage"
            if len(state.unranked) == 1:
                state.why += "; the candidate that no window ranked keeps its place"
            else:
                whose = "fallback's" if state.stand_in == "baseline" else "first stage's"
                state.why += f"; what no window ranked stands in the {whose} order"
            state.done()

    def _blend(self, state: QueryState) -> None:
        """Blend a complete ranking with the first stage's scores, if there is a weight and every candidate has one."""
        first_stage = [candidate.score for candidate in state.request.candidates]
        known = [score for score in first_stage if score is not None]
        if self._weight is not None and not state.why and len(known) == len(first_stage):
            state.blend_in(known, self._weight, self.decoding)

    def _longest(self, candidates: int) -> int:
        """The most prompt tokens that leave room for the answer."""
        answer = 0 if self.decoding not in _NAMING else candidates * (1 + len(self._answer.between))
        return self.engine.context - answer - self._picture_tokens

    def _presentations(self, window: Window) -> list[Window]:
        """The window's places in the order in which each pass shows them."""
        orders = [window, window[::-1]][: self.passes]
        for number in range(2, self.passes):
            shuffled = list(window)
            random.Random(f"{self.seed}:{number}").shuffle(shuffled)
            orders.append(tuple(shuffled))
        return orders

    def _render(self, state: QueryState, order: Window) -> Prompt:
        prompt = state.prepared.window(
            order,
            max_tokens=min(self.max_prompt_tokens, self._longest(len(order))),
            decoding=self.decoding,
        )
        picture = state.pictures.get(state.request.candidates[order[0]].listing.image_url) if state.pictures else None
        return prompt.with_picture(picture) if isinstance(picture, Picture) else prompt

    def _write_reasons(self, states: Sequence[QueryState], count: int, deadline: Deadline) -> Loop[None]:
        """Write reasons for the first `count` items of every query, as one batch."""
        wanted = [(state, place) for state in states for place in state.order[:count]]
        missing: dict[tuple[QueryState, int], tuple[Cause, str]] = dict.fromkeys(wanted, deadline.blame)
        requests = {}
        for state, place in wanted:
            if deadline.passed():
                break
            try:
                requests[state, place] = self._reason_request(state, place)
            except BudgetError as error:
                missing[state, place] = "budget", f"no room: {error}"
        asked = list(requests.values())
        written: Sequence[Reason | None] = []
        try:
            if asked and not deadline.passed():
                ends = self._renderer.reason_ends
                results = yield ask_reasons(asked, max_tokens=self.max_reason_tokens, ends=ends)
                written = read_reasons(asked, results, stop=deadline.overdue)
        except EngineError as error:
            missing |= dict.fromkeys(requests, ("engine-error", f"the engine failed: {error}"))
        except OutputError as error:
            missing |= dict.fromkeys(requests, ("bad-output", f"the model misbehaved: {error}"))
        for (state, place), reason in zip(requests, written, strict=False):  # none where the call was not made
            if reason is not None:
                del missing[state, place]
                state.tokens += reason.tokens
                state.claims += reason.claims
                if reason.text:
                    state.reasons[place] = reason
        for (state, place), blame in missing.items():
            state.no_reason(place, *blame)
        for state in states:
            state.done()

    def _reason_request(self, state: QueryState, place: int) -> ReasonRequest:
        """Ask for a candidate's reason."""
        request = state.request
        listings = [candidate.listing for candidate in request.candidates]
        others = (*listings[:place], *listings[place + 1 :])
        prompt = state.prepared.reason(place, max_tokens=self.engine.context - self.max_reason_tokens)
        return ReasonRequest(prompt.ids, request.query, listings[place], self._past(state), others, prompt.lead)

    def _past(self, state: QueryState) -> Mapping[int, Interaction]:
        """The interactions that a reason may mention, by place; of a long history, the most useful ones."""
        if state.past is None:
            request = state.request
            places: Iterable[int] = range(len(request.history))
            if len(request.history) > MOST_PAST:
                listings = [candidate.listing for candidate in request.candidates]
                useful = usefulness(request.history, request.query, listings)
                places = sorted(heapq.nlargest(MOST_PAST, places, key=useful.__getitem__))
            state.past = {place: request.history[place] for place in places}
        return state.past

    def _ranking(self, state: QueryState, top_k: int | None, deadline: Deadline) -> Ranking:
        ranked = []
        candidates = state.request.candidates
        for rank, (place, score) in enumerate(zip(state.order, state.falling_scores(), strict=True), start=1):
            candidate = candidates[place]
            source_rank = candidate.rank if candidate.rank is not None else place + 1
            written = state.reasons.get(place)
            reason, evidence = (written.text, written.evidence) if written else (None, ())
            ranked.append(RankedItem(candidate.listing, rank, score, source_rank, reason, evidence))
        provenance = dataclasses.replace(
            self._provenance,
            engine=self.engine.name,  # a server's says how it is read, which may change
            top=self._top(top_k) if self.strategy == "tournament" else None,
            outcome="fallback" if state.why else "repaired" if state.repairs else "model",
            cause=state.cause,
            why=state.why,
            stand_in=state.stand_in,
            repairs=tuple(state.repairs),
            reasons_missing=state.reasons_missing,
            windows=state.ranked,
            kept=state.kept,
            agreement=sum(state.taus) / len(state.taus) if state.taus else None,
            tokens=state.tokens,
            cuts=dict(state.cuts),
            neutralised=state.neutralised,
            claims=state.claims,
            calibration=self._provenance.calibration if state.blend is None else None,
            blend=state.blend,
            seconds=state.ended - deadline.started,
            pictures=None if self._loader is None else _pictured(state),
        )
        return Ranking(state.request.query.query_id, tuple(ranked[:top_k]), provenance)


@dataclasses.dataclass(frozen=True, slots=True)
class _Shown:
    """A window in one pass, with the model's answer.

    Attributes:
        order: The window's places, in the order of the prompt.
        prompt: The prompt.
        scores: ``[n]`` in the order of the prompt.
        tokens: Token counts.
        found: See `genrank.engines.base.ScoreResult`.
        repairs: See `genrank.decoding.checks.Scored`.
    """

    order: Window
    prompt: Prompt
    scores: Sequence[float]
    tokens: Tokens
    found: bool
    repairs: Sequence[str]


def _check_engine(engine: object, model: object, adapter: object, dtype: object, trust_remote_code: bool) -> None:
    """Check that the engine is one, and that no option of loading is given for an engine that has its own model.

    Raises:
        InputError: When something is wrong; its `field` names it.
    """
    if isinstance(engine, str):
        if engine not in ("transformers", "vllm") and not is_address(engine):
            raise InputError(f"must be {_ENGINES}, got {engine!r}", field="engine")
        _check_place("model", model)
        _check_place("adapter", adapter)
        if is_address(engine) and dtype != "auto":
            raise InputError(f"{engine} has its own, got {dtype!r}; leave it out", field="dtype")
        return
    if isinstance(engine, type) or not hasattr(engine, "tokenizer"):
        raise InputError(f"must be {_ENGINES}, got {engine!r}", field="engine")
    for name, given in (("model", model), ("adapter", adapter)):
        if given is not None:
            raise InputError(
                f"the engine that was passed has its own {name} ({getattr(engine, name)}); leave {name}={given!r} out, "
                "or create the engine with it",
                field=name,
            )
    for name, is_given in (("dtype", dtype != "auto"), ("trust_remote_code", trust_remote_code)):
        if is_given:
            raise InputError(
                "the engine that was passed has loaded its model already; leave it out, or make the engine with it",
                field=name,
            )


def _check_pictures(pictures: Pictures | None, engine: object) -> Pictures | None:
    """The pictures' settings, if they allow any.

    Raises:
        InputError: When they are no settings, or an engine of this name shows no pictures.
    """
    if pictures is not None and not isinstance(pictures, Pictures):
        raise InputError(
            f"must be genrank.Pictures(hosts=[...]), got {type(pictures).__name__}; leave it out for none",
            field="pictures",
        )
    if pictures is None or not pictures.on:
        return None
    if engine == "vllm":
        raise InputError(
            "the engine vllm shows none in this process; start vLLM's server (vllm serve MODEL) and pass its address, "
            "engine='http://...', or leave pictures out",
            field="pictures",
        )
    return pictures


def _picture_tokens(engine: Engine, pictures: Pictures) -> int:
    """The most tokens that a picture takes.

    Raises:
        InputError: When the engine or its model shows none, or they leave no room in its context.
    """
    count = getattr(engine, "picture_tokens", None)
    if count is None:
        raise InputError(
            f"the engine {engine.name} shows none; pass engine='transformers' with a model that looks at pictures, or "
            "the address of a server that is asked in chat messages (engine='http://...', vLLM's too), or leave "
            "pictures out",
            field="pictures",
        )
    most: int = count(pictures.max_edge)
    if most >= engine.context:
        raise InputError(
            f"a picture of {pictures.max_edge} pixels takes {most} tokens, and the model takes {engine.context}; lower "
            "Pictures.max_edge",
            field="pictures",
        )
    return most


def _pictured(state: QueryState) -> Pictured:
    """What became of the pictures of a query's candidates."""
    addresses = [candidate.listing.image_url for candidate in state.request.candidates]
    found = [state.pictures.get(address) for address in addresses if address]
    failed = Counter[str](one for one in found if isinstance(one, str))
    return Pictured(state.pictures_used, addresses.count(""), dict(failed))


_ENGINES = "transformers, vllm, a server's address (http://...) or an Engine"


def is_address(engine: str) -> bool:
    """Whether an engine's name is the address of a server."""
    return engine.startswith(("http://", "https://"))


def _check_place(name: str, value: object, *others: type) -> None:
    """Refuse what neither names a thing nor is the path of a file or folder; None and `others` pass.

    Raises:
        InputError: When it is something else.
    """
    if value == "":
        raise InputError("must be a name or a path, got ''; leave it out for the default", field=name)
    if value is not None and not isinstance(value, (str, PathLike, *others)):
        fix = f"; pass engine={type(value).__name__}(...)" if hasattr(value, "tokenizer") else ""
        raise InputError(f"must be a name or a path, got {type(value).__name__}{fix}", field=name)


def _strategy(decoding: Decoding, strategy: object, **windows: int | None) -> Strategy:
    """The strategy, or the decoding's default one.

    Args:
        decoding: The decoding.
        strategy: The strategy; None for the default.
        windows: Options that ``pointwise`` has no use for.

    Raises:
        InputError: When it is no strategy, or does not suit the decoding.
    """
    if strategy is None:
        strategy = "each" if decoding == "pointwise" else "sliding"
    if strategy not in get_args(Strategy):
        raise InputError(f"must be one of {list(get_args(Strategy))}, got {strategy!r}", field="strategy")
    if (decoding == "pointwise") != (strategy == "each"):
        fits = "each" if decoding == "pointwise" else "sliding, tournament or single"
        raise InputError(f"decoding {decoding} works with {fits}, got {strategy}; leave it out", field="strategy")
    others = ", ".join(other for other in get_args(Decoding) if other != "pointwise")
    for name, given in windows.items():
        if decoding == "pointwise" and given is not None and not (name == "passes" and given == 1):
            raise InputError(
                f"decoding pointwise asks about each candidate once, by itself, got {name}={given}; leave it out, or "
                f"name a decoding that takes it: {others}",
                field=name,
            )
    return cast(Strategy, strategy)


def _decoding(
    decoding: Decoding | None, engine: object, adapter: str | None, prompt: str | Path | Template | None
) -> Decoding:
    """The given decoding, or the default one of those that the engine serves.

    Raises:
        InputError: When the engine does not serve it.
        ConfigError: When the adapter's manifest or the prompt template is wrong.
    """
    served: Sequence[Decoding] = getattr(engine, "decodings", get_args(Decoding))
    chosen = decoding or default_decoding(adapter, prompt, served)
    if chosen not in served:
        name = getattr(engine, "name", "")
        raise InputError(f"the engine {name} serves only {', '.join(served)}, got {chosen}", field="decoding")
    return chosen


def default_decoding(
    adapter: str | None,
    prompt: str | Path | Template | None,
    served: Sequence[Decoding] = get_args(Decoding),
) -> Decoding:
    """The decoding where none is given: the adapter's best, or the first that suits it and the prompt.

    Args:
        adapter: Its folder or name; None without one.
        prompt: As in `Reranker`.
        served: The decodings that the engine serves, the best one first.

    Raises:
        ConfigError: When the adapter's manifest or the prompt template is wrong.
    """
    suited = served
    if prompt is not None:
        possible = (prompt if isinstance(prompt, Template) else load_template(prompt)).decodings
        suited = [decoding for decoding in served if decoding in possible] or possible
    manifest = load_manifest(adapter) if adapter is not None else None
    if manifest and manifest.serve and manifest.serve.decoding in suited:
        return manifest.serve.decoding
    trained = [decoding for decoding in suited if not manifest or decoding in manifest.prompts]
    return next(iter(trained or suited), "pointwise")  # one that does not fit is refused, with the reason


def _served_passes(decoding: Decoding, adapter: str | None) -> int:
    """The passes with which the adapter ranks best, or the decoding's default."""
    manifest = load_manifest(adapter) if adapter is not None else None
    best = manifest.serve if manifest else None
    return best.passes if best and best.decoding == decoding else DEFAULT_PASSES[decoding]


def _sizes(strategy: Strategy, window: int | None, stride: int | None) -> tuple[int, int]:
    """The window and the stride, with their defaults; the provenance says which of them a strategy uses."""
    window = DEFAULT_WINDOW if window is None else whole_number("window", window)
    stride = max(1, window // 2) if stride is None else whole_number("stride", stride)
    check_window(window, stride if strategy == "sliding" else 1)
    return window, stride


def _is_time(value: object) -> bool:
    """Whether a value is a positive number of seconds, which may be infinite."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return float(value) > 0
    except OverflowError:
        return False


def _load_engine(
    engine: str | Engine,
    model: str,
    adapter: str | None,
    dtype: Dtype,
    check_adapter: bool,
    trust_remote_code: bool,
    pictures: bool,
) -> Engine:
    options: Any = {"check_adapter": check_adapter, "trust_remote_code": trust_remote_code}
    options |= {"adapter": adapter, "dtype": dtype}
    if not isinstance(engine, str):
        return engine
    if engine == "vllm":
        from genrank.engines.vllm import VLLMEngine

        return VLLMEngine(model, **options)
    from genrank.engines.transformers import TransformersEngine

    return TransformersEngine(model, **(options | {"pictures": True} if pictures else options))


def _find_template(
    prompt: str | Path | Template | None, decoding: Decoding, adapter: str | None, check: bool
) -> Template:
    """The given prompt, or else the one the adapter was trained with, or the default; `check` compares the two."""
    manifest = load_manifest(adapter) if adapter is not None else None
    if prompt is None:
        trained = manifest.prompts.get(decoding) if manifest else None
        prompt = trained.name if trained else DEFAULT_PROMPTS[decoding]
    template = prompt if isinstance(prompt, Template) else load_template(prompt)
    if manifest and check:
        manifest.check(str(adapter), decoding, template.name, template.digest)
    return template


def _find_weight(blend: float | Literal[False] | None, adapter: str | None, use: Mapping[str, str]) -> float | None:
    """The given weight of the model, or else the adapter's own, if it has one that fits; None blends nothing."""
    if blend is False or (blend is None and adapter is None):
        return None
    if blend is not None:
        return float(blend)
    stored = stored_blend(str(adapter), **use)
    return float(stored.weight) if stored else None


def _check_scores(request: Request, weight: float | None) -> None:
    """Check that each candidate has a first-stage score.

    Raises:
        InputError: When one has none.
    """
    for i, candidate in enumerate(request.candidates):
        if candidate.score is None:
            raise InputError(
                f"blend={weight:g} needs the first stage's score of every candidate, and "
                f"{candidate.listing.listing_id} has none; give it one, or leave blend out",
                field=f"candidates[{i}].score",
            )


def _find_calibration(
    calibration: Calibration | str | Path | Literal[False] | None, adapter: str | None, use: Mapping[str, str]
) -> Calibration | None:
    """The given calibration, which must fit, or else the adapter's own, if it has one that fits; False is none."""
    if calibration is False:
        return None
    if calibration is None:
        return stored_calibration(adapter, **use) if adapter is not None else None
    if not isinstance(calibration, Calibration):
        calibration = load_calibration(calibration, use["decoding"])
    calibration.check(**use)
    return calibration
