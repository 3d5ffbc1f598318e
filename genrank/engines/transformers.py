"""Runs a model in this process with Hugging Face transformers.

Nothing is computed twice: neither the first tokens that several prompts of a call share (system text, query, history),
nor the heads of earlier prompts, which were kept (`ScoreRequest.head`).
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from genrank.engines.base import (
    Closing,
    Dtype,
    PermuteRequest,
    PermuteResult,
    ScoreRequest,
    ScoreResult,
    Stop,
    TextRequest,
    TextResult,
    check_dtype,
    check_lengths,
    never,
)
from genrank.engines.caches import KeysValues, can_be_cut, copy, crop, join, repeat, size, take
from genrank.engines.loading import end_tokens, load, native_dtype
from genrank.engines.mask import PermutationMask
from genrank.engines.prefixes import Group, Kept, common_prefix, share
from genrank.engines.tokenizer import HubTokenizer, longest_context
from genrank.errors import EngineError, InputError, MissingExtraError
from genrank.models.weights import reading
from genrank.types import Tokens

try:
    import torch
    from transformers import DynamicCache, LogitsProcessor
except ImportError as error:
    raise MissingExtraError(error.name or "transformers", "transformers") from None

R = TypeVar("R", ScoreRequest, PermuteRequest, TextRequest)
A = TypeVar("A")
Done = Callable[[int, A], None]  # takes a row's index in its batch, and its answer
_WAIT = 0.02  # seconds between two checks of `stop` while another thread runs the model
_MEASURED = 64  # tokens; a smaller pass says little about the time for one token
_LEAST_KEPT = 64  # tokens; a kept prompt that shares fewer is not worth a separate pass
_BEHIND_COST = 0.15  # extra cost of a token after a prefix, whose attention needs a full mask


class TransformersEngine(Closing):
    """A causal language model on the CPU or a GPU, through transformers.

    Args:
        model: A known name, a local folder or a hub name.
        adapter: Folder or hub name of a PEFT adapter.
        device: Such as ``cpu`` or ``cuda``; by default the GPU where there is one.
        dtype: ``auto`` takes bfloat16 if the machine computes in it, else float32 (on a GPU, float16).
        batch_tokens: The most tokens, padding included, in one forward pass; by default 1,024 on the CPU (more only
            adds padding there) and 65,536 on a GPU.
        kept_bytes: The most bytes of keys and values to keep for later prompts; by default 512 MiB on the CPU and 4 GiB
            on a GPU. 0 keeps nothing.
        trust_remote_code: Whether to run code in the model's folder; read it first.
        check_adapter: Whether to refuse an adapter whose manifest says that it was trained on other weights.

    Raises:
        ModelNotFoundError: When there is no such model.
        ModelError: When the files of the model or the adapter cannot be read or do not fit, or the model is not a
            causal language model.
        ConfigError: When the adapter was trained on another model.
        InputError: When an argument is wrong.
    """

    name = "transformers"

    def __init__(
        self,
        model: str = "smollm2-135m",
        *,
        adapter: str | None = None,
        device: str | None = None,
        dtype: Dtype = "auto",
        batch_tokens: int | None = None,
        kept_bytes: int | None = None,
        trust_remote_code: bool = False,
        check_adapter: bool = True,
    ) -> None:
        if batch_tokens is not None and batch_tokens < 1:
            raise InputError(f"must be at least 1, got {batch_tokens}", field="batch_tokens")
        if kept_bytes is not None and kept_bytes < 0:
            raise InputError(f"must be at least 0, got {kept_bytes}", field="kept_bytes")
        check_dtype(dtype)
        self.model = model
        self.adapter = adapter
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError, TypeError) as why:
            said = " ".join(str(why).split())[:200]
            raise InputError(f"cannot use {device!r} ({said}); take cpu, or leave it out", field="device") from None
        on_cpu = self.device.type == "cpu"
        self.batch_tokens = batch_tokens or (1024 if on_cpu else 65536)
        self.dtype: torch.dtype = native_dtype(self.device) if dtype == "auto" else getattr(torch, dtype)
        # the number of tokens that a GPU reads in the time of one more forward pass
        self._least_shared = 64 if on_cpu else 4096
        self._write_tokens = max(self.batch_tokens, 8192)  # prompt tokens of the rows that are continued together
        self._kept = Kept[KeysValues]((512 << 20 if on_cpu else 4 << 30) if kept_bytes is None else kept_bytes)
        self._lock = threading.Lock()
        self._closed = False
        self._lm: Any
        self._lm, tokenizer = load(
            model,
            adapter,
            self.device,
            self.dtype,
            trust_remote_code=trust_remote_code,
            check_adapter=check_adapter,
        )
        self._decoder = self._lm.get_decoder()
        self._config = self._lm.config.get_text_config()
        self._pad = 0  # any token with an embedding will do: nothing reads the padding
        self._ends = end_tokens(self._lm, tokenizer)
        self._shares = can_be_cut(self._config)
        self.context = longest_context(self._config)
        self.tokenizer = HubTokenizer(tokenizer)
        with reading(model):  # the first time that it runs
            self._own_head = self._head_agrees()
        self._stop: Stop = never  # of the call that is running the model
        self._seconds_a_token = 0.0  # in the fastest pass so far; 0 before the first is measured
        for layer in getattr(self._decoder, "layers", ()):
            layer.register_forward_pre_hook(self._check_stop)

    def close(self) -> None:
        """Free the model and everything kept for it; later calls raise an `EngineError`.

        Waits for a running call. Closing twice does no harm.
        """
        with self._lock:
            self._closed = True
            self._lm = self._decoder = None
            self._kept = Kept(0)
            gc.collect()  # the model and its hooks refer to each other
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        """Read scores with one forward pass for each batch; see `genrank.engines.base.Engine`.

        The head is computed only for the requested positions and tokens.
        """
        answers: list[ScoreResult | None] = [None] * len(requests)

        def read(rows: list[_Row]) -> None:
            for row in rows:
                request = requests[row.place]
                states = row.states[[place - row.start for place in request.reads]]
                scores = self._read(states, list(request.targets)).tolist()
                answers[row.place] = answer = ScoreResult(scores, Tokens(prompt=len(request.ids), cached=row.cached))
                stop.publish(request, answer)

        with contextlib.suppress(_Stopped):
            self._prefill(requests, [min(request.reads, default=0) for request in requests], read, stop, caches=False)
        return answers

    def permute(self, requests: Sequence[PermuteRequest], *, stop: Stop = never) -> list[PermuteResult | None]:
        """Write orders under a mask; see `genrank.engines.base.Engine`.

        Each step of the model chooses an identifier; the tokens between two, and the last identifier, are filled in. A
        single identifier does not need the model.
        """
        self._check_open()
        answers: list[PermuteResult | None] = [None] * len(requests)
        alike = defaultdict[int, list[int]](list)  # rows that are written together need steps of the same length
        for i, request in enumerate(requests):
            if len(request.identifiers) == 1:
                answers[i] = PermuteResult((0,), Tokens(completion=1))
            else:
                alike[len(request.between)].append(i)
        for members in alike.values():

            def done(i: int, answer: PermuteResult, members: list[int] = members) -> None:
                answers[members[i]] = answer
                stop.publish(requests[members[i]], answer)

            self._answer([requests[i] for i in members], self._permute, stop, done)
        return answers

    def write(self, requests: Sequence[TextRequest], *, stop: Stop = never) -> list[TextResult | None]:
        """Write text greedily; see `genrank.engines.base.Engine`."""
        answers: list[TextResult | None] = [None] * len(requests)

        def done(i: int, answer: TextResult) -> None:
            answers[i] = answer
            stop.publish(requests[i], answer)

        self._answer(requests, self._write, stop, done)
        return answers

    def _answer(
        self,
        requests: Sequence[R],
        write: Callable[[list[_Row], list[R], Stop, Done[A]], None],
        stop: Stop,
        done: Done[A],
    ) -> None:
        """Read prompts and write their answers, as many at a time as fit."""
        waiting: list[_Row] = []

        def write_waiting() -> None:
            rows = list(waiting)
            waiting.clear()
            write(
                rows,
                [requests[row.place] for row in rows],
                stop,
                lambda row, answer: done(rows[row].place, answer),
            )

        def wait(rows: list[_Row]) -> None:
            waiting.extend(rows)
            if sum(len(requests[row.place].ids) for row in waiting) >= self._write_tokens:
                write_waiting()

        with contextlib.suppress(_Stopped):
            self._prefill(requests, [len(request.ids) - 1 for request in requests], wait, stop, caches=True)
            with self._turn(stop) as go:
                if go and waiting:
                    write_waiting()

    def _prefill(
        self,
        requests: Sequence[R],
        limits: Sequence[int],
        use: Callable[[list[_Row]], None],
        stop: Stop,
        *,
        caches: bool,
    ) -> None:
        """Read prompts in batches of similar length; a prefix that several share is read once.

        Args:
            requests: The requests.
            limits: For each prompt, the number of first tokens whose states are not needed.
            use: Called with the rows of each batch.
            stop: Checked before each forward pass.
            caches: Whether the rows need their keys and values.
        """
        check_lengths(requests, self.context, self.model)
        for kept, known, group in self._groups([request.ids for request in requests], limits):
            head, cached = kept, dict.fromkeys(group.members, known)
            if group.prefix > known:
                with self._turn(stop) as go:
                    if not go:
                        return
                    ids = requests[group.members[0]].ids[: group.prefix]
                    _, cache = self._extend(kept, [ids[known:]], caches=True)
                    head = take(cache, 0, group.prefix) if cache is not None else None
                cached |= dict.fromkeys(group.members[1:], group.prefix)  # the first one pays
            for members in self._batches(requests, group, stop):
                with self._turn(stop) as go:
                    if not go:
                        return
                    batch = [requests[i] for i in members]
                    heads = [getattr(request, "head", 0) if self._shares else 0 for request in batch]
                    states, cache = self._extend(
                        head, [request.ids[group.prefix :] for request in batch], caches=caches or any(heads)
                    )
                    rows = []
                    for row, (i, request) in enumerate(zip(members, batch, strict=True)):
                        tail = states[row, : len(request.ids) - group.prefix]
                        kv = take(cache, row, len(request.ids)) if self._shares and cache else None
                        rows.append(_Row(i, request.ids, group.prefix, tail, kv, cached[i]))
                        if heads[row] and kv:
                            self._keep(tuple(request.ids[: heads[row]]), crop(kv, heads[row]))
                    use(rows)

    def _groups(
        self, prompts: Sequence[Sequence[int]], limits: Sequence[int]
    ) -> Iterator[tuple[KeysValues | None, int, Group]]:
        """Groups of prompts that continue the same tokens: their kept keys and values, how many tokens, the group."""
        if not self._shares:
            yield None, 0, Group(tuple(range(len(prompts))), 0)
            return
        starts = defaultdict[tuple[tuple[int, ...], int], list[int]](list)
        values: dict[tuple[int, ...], KeysValues] = {}
        for i, (ids, limit) in enumerate(zip(prompts, limits, strict=True)):
            kept, value = self._kept.find(tuple(ids)) or ((), [])
            known = min(common_prefix(kept, ids), limit)
            if known < max(_LEAST_KEPT, _BEHIND_COST * (len(ids) - known)):
                kept, known = (), 0
            starts[kept, known].append(i)
            values[kept] = value
        for (kept, known), members in starts.items():
            head = crop(values[kept], known) if known else None
            rests = [prompts[i][known:] for i in members]
            cost = 0 if known else _BEHIND_COST
            for group in share(rests, [limits[i] - known for i in members], self._least_shared, cost):
                yield head, known, Group(tuple(members[place] for place in group.members), known + group.prefix)

    def _batches(self, requests: Sequence[R], group: Group, stop: Stop) -> Iterator[list[int]]:
        """Batches of prompts of similar length, the longest first, with at most `batch_tokens` each.

        With a deadline, batches are smaller, so that something is finished when it passes. A prompt that could not be
        read in the time left, even at the speed of the fastest pass so far, is skipped.
        """
        left = sorted(group.members, key=lambda i: len(requests[i].ids), reverse=True)
        while left:
            longest = len(requests[left[0]].ids)
            most = self.batch_tokens // longest
            if (seconds := stop.left()) is not None:
                one = (longest - group.prefix) * self._seconds_a_token
                if one > seconds:
                    del left[0]
                    continue
                most = min(most, int(seconds / 2 / one)) if one else 1
            most = max(1, most)
            yield left[:most]
            del left[:most]

    def _extend(
        self, head: KeysValues | None, tails: Sequence[Sequence[int]], *, caches: bool
    ) -> tuple[torch.Tensor, DynamicCache | None]:
        """Read tokens that continue `head`: states ``[b, longest tail, width]``, and all keys and values."""
        # padding on the right needs no mask in a causal model: no real token sees it
        ids = torch.tensor(_even(tails, self._pad), device=self.device)
        cache = None
        if self._shares and (head or caches):
            cache = repeat(head or [], len(tails))
        started = time.perf_counter()
        states = self._forward(input_ids=ids, past_key_values=cache, use_cache=cache is not None)
        if ids.numel() >= _MEASURED:
            seconds = (time.perf_counter() - started) / ids.numel()
            self._seconds_a_token = min(seconds, self._seconds_a_token or seconds)
        return states, cache

    def _keep(self, ids: tuple[int, ...], kv: KeysValues) -> None:
        own = copy(kv)
        self._kept.put(ids, own, size(own))

    def _permute(self, rows: list[_Row], requests: list[PermuteRequest], stop: Stop, done: Done[PermuteResult]) -> None:
        masks = [PermutationMask(tuple(request.identifiers), tuple(request.between)) for request in requests]
        written: list[list[int]] = [[] for _ in rows]
        step = 1 + len(requests[0].between)
        writer = _BatchWriter(self, rows)
        unfinished = set(range(len(rows)))
        while unfinished and not stop():
            runs = []
            for row, (mask, answer) in enumerate(zip(masks, written, strict=True)):
                run = []
                if allowed := mask.allowed(answer):
                    choice = allowed[int(self._read(writer.last[row : row + 1], list(allowed)).argmax())]
                    run = [choice, *mask.forced([*answer, choice])]
                    answer += run
                runs.append((run + [self._pad] * step)[:step])
            for row in sorted(unfinished):
                if not masks[row].allowed(written[row]):
                    unfinished.remove(row)
                    tokens = Tokens(len(rows[row].ids), rows[row].cached, len(written[row]))
                    done(row, PermuteResult(masks[row].order(written[row]), tokens))
            if unfinished:
                writer.write(runs)

    def _write(self, rows: list[_Row], requests: list[TextRequest], stop: Stop, done: Done[TextResult]) -> None:
        ends = [self._ends | set(request.ends) for request in requests]
        written: list[list[int]] = [[] for _ in rows]
        writer = _BatchWriter(self, rows)
        unfinished = set(range(len(rows)))

        def finish() -> None:
            for row in sorted(unfinished):
                answer = written[row]
                ended = bool(answer) and answer[-1] in ends[row]
                if ended or len(answer) >= requests[row].max_tokens:
                    unfinished.remove(row)
                    text = self.tokenizer.decode(answer[:-1] if ended else answer)
                    done(row, TextResult(text, Tokens(len(rows[row].ids), rows[row].cached, len(answer))))

        finish()
        while unfinished and not stop():
            likeliest = self._likeliest(writer.last)
            for row in unfinished:
                written[row].append(likeliest[row])
            finish()
            if unfinished:
                writer.write([[token] for token in likeliest])

    @contextlib.contextmanager
    def _turn(self, stop: Stop) -> Iterator[bool]:
        """Wait for the model; False if `stop` says to give up before it is free.

        Within this context, a forward pass raises `_Stopped` between two layers as soon as `stop` says to give up.
        """
        while True:
            left = stop.left()
            mine = self._lock.acquire(timeout=_WAIT if left is None else min(_WAIT, left))
            if mine or stop():
                break
        try:
            self._check_open()
            if mine:
                self._stop = stop
            with torch.inference_mode(), _engine_errors(self.model):
                yield mine and not stop()
        finally:
            if mine:
                self._stop = never
                self._lock.release()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError(f"the engine of {self.model} is closed")

    def _check_stop(self, *_: object) -> None:
        """Called before each layer, so that a call that was given up does not block the next one for a whole pass."""
        if self._stop():
            raise _Stopped

    def _forward(self, **inputs: Any) -> torch.Tensor:
        """The input of `_read`: hidden states ``[b, length, width]``, or logits if the head must run as a whole."""
        if self._own_head:
            return cast(torch.Tensor, self._decoder(**inputs).last_hidden_state)
        return cast(torch.Tensor, self._lm(**inputs).logits)

    def _likeliest(self, states: torch.Tensor) -> list[int]:
        """``[b]`` the likeliest next tokens, from ``[b, width]`` outputs of `_forward`."""
        logits = self._lm.get_output_embeddings()(states) if self._own_head else states
        return cast(list[int], logits.argmax(-1).tolist())

    def _read(self, states: torch.Tensor, targets: list[int]) -> torch.Tensor:
        """Logits of some tokens, ``[r, t]`` in float32, from ``[r, width]`` outputs of `_forward`."""
        if not self._own_head:
            return states[:, targets].float()
        output = self._lm.get_output_embeddings()
        logits = states.float() @ output.weight[targets].float().T
        if getattr(output, "bias", None) is not None:
            logits = logits + output.bias[targets].float()
        cap = getattr(self._config, "final_logit_softcapping", None)
        return cast(torch.Tensor, torch.tanh(logits / cap) * cap if cap else logits)

    def _head_agrees(self) -> bool:
        """Whether `_read` gives the model's own logits; some models scale theirs in special ways."""
        ids = torch.arange(8, device=self.device)[None] % self._config.vocab_size
        targets = list(range(min(64, self._config.vocab_size)))
        self._own_head = True
        with torch.inference_mode():
            own = self._lm(input_ids=ids).logits[0, -1:, targets].float()
            read = self._read(self._forward(input_ids=ids, use_cache=False)[0, -1:], targets)
        atol = 1e-3 if self.dtype == torch.float32 else 0.25
        return torch.allclose(own, read, atol=atol, rtol=0.02)


class _Stopped(Exception):  # noqa: N818 - a signal, not an error
    """Raised in the middle of a forward pass whose call was given up."""


@dataclass
class _Row:
    """A prompt that was read.

    Attributes:
        place: Index of its request in the call, 0-based.
        ids: The prompt's tokens.
        start: Position of the token whose state is ``states[0]``, 0-based.
        states: States of the prompt's last tokens, from `_forward`.
        kv: Keys and values of the whole prompt; None without a cache that can be split by row.
        cached: Tokens that were not read, because their keys and values were cached.
    """

    place: int
    ids: Sequence[int]
    start: int
    states: torch.Tensor
    kv: KeysValues | None
    cached: int


class _BatchWriter:
    """Continues several prompts at once, by the same number of tokens in each step.

    Attributes:
        last: ``[b, width]`` output of `_forward` for each row's last token.
    """

    def __init__(self, engine: TransformersEngine, rows: list[_Row]) -> None:
        self._engine = engine
        self._texts = [list(row.ids) for row in rows]
        self._cache = None
        self.last = torch.stack([row.states[-1] for row in rows])
        lengths = [len(row.ids) for row in rows]
        width = max(lengths)
        self._next = torch.tensor(lengths, device=engine.device)
        # padded on the left, so that there are no gaps within a row: a sliding window counts positions
        self._mask = torch.arange(width, device=engine.device) >= width - self._next[:, None]
        if caches := [row.kv for row in rows if row.kv is not None]:
            self._cache = join(caches)

    def write(self, tokens: list[list[int]]) -> None:
        """Append ``[b][k]`` tokens to the rows."""
        if self._cache is None:  # the model's state cannot be split by row, so read everything again
            self._texts = [[*text, *new] for text, new in zip(self._texts, tokens, strict=True)]
            states, _ = self._engine._extend(None, self._texts, caches=False)
            self.last = torch.stack([states[row, len(text) - 1] for row, text in enumerate(self._texts)])
            return
        ids = torch.tensor(tokens, device=self._next.device)
        self._mask = torch.nn.functional.pad(self._mask, (0, ids.shape[1]), value=True)
        positions = self._next[:, None] + torch.arange(ids.shape[1], device=ids.device)
        self._next = self._next + ids.shape[1]
        self.last = self._engine._forward(
            input_ids=ids,
            attention_mask=None if bool(self._mask.all()) else self._mask.long(),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )[:, -1]


class PermutationLogitsProcessor(LogitsProcessor):
    """`PermutationMask` for transformers' ``generate``; `TransformersEngine.permute` gives the same result faster.

    Args:
        mask: The mask.
        prompt_length: Tokens before the answer. Set ``max_new_tokens`` to ``n + (n - 1) * len(mask.between)``.
    """

    def __init__(self, mask: PermutationMask, prompt_length: int) -> None:
        self.mask = mask
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``[b, vocabulary]`` scores, minus infinity for forbidden tokens; those after a complete answer are kept."""
        masked = torch.full_like(scores, -torch.inf)
        for row, ids in enumerate(input_ids[:, self.prompt_length :].tolist()):
            allowed = list(self.mask.allowed(ids)) or slice(None)
            masked[row, allowed] = scores[row, allowed]
        return masked


def _even(rows: Sequence[Sequence[int]], pad: int) -> list[list[int]]:
    width = max(map(len, rows))
    return [[*row, *[pad] * (width - len(row))] for row in rows]


@contextlib.contextmanager
def _engine_errors(model: str) -> Iterator[None]:
    """Turn errors that torch raises while it computes into an `EngineError`."""
    try:
        yield
    except (RuntimeError, MemoryError, IndexError, ValueError) as error:
        raise EngineError(f"{model} failed: {error}") from error
