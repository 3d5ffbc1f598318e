"""Runs a model in this process with Hugging Face transformers.

Nothing is computed twice: neither the first tokens that several prompts of a call share (system text, query, history),
nor the listings that earlier prompts began with, whose keys and values are kept (`ScoreRequest.head`).
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from genrank.adapters import pinned
from genrank.engines.base import (
    Closing,
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
    total_tokens,
)
from genrank.engines.caches import Buffer, Exact, Int8, Layout, cache_keyword, can_be_cut
from genrank.engines.drafts import Draft
from genrank.engines.heads import Head, KeptHeads, key_of
from genrank.engines.loading import end_tokens, find_adapter, load, native_dtype
from genrank.engines.mask import PermutationMask
from genrank.engines.prefixes import share
from genrank.engines.snapshots import Snapshot, SnapshotWriter
from genrank.engines.tokenizer import HubTokenizer, longest_context
from genrank.engines.vision import PictureReader, SeeingTokenizer, Seen, batch
from genrank.errors import EngineError, InputError, MissingExtraError
from genrank.files import files_fingerprint
from genrank.models.registry import DEFAULT_MODEL
from genrank.models.store import resolve
from genrank.models.weights import model_fingerprint, reading
from genrank.pictures.preparing import plain_picture
from genrank.types import Dtype, Tokens

try:
    import torch
    from transformers import DynamicCache, LogitsProcessor
except ImportError as _error:
    raise MissingExtraError(_error.name or "transformers", "transformers") from None

R = TypeVar("R", ScoreRequest, PermuteRequest, TextRequest)
A = TypeVar("A")
Done = Callable[[int, A], None]  # takes a row's index in its batch, and its answer
_WAIT = 0.02  # seconds between two checks of `stop` while another thread runs the model
_MEASURED = 64  # tokens; a smaller pass says little about the time for one token
_SEEN_TOGETHER = 64  # pictures; what a model reads of one may take megabytes
_MOST_SCRATCH = 256 << 20  # bytes
_BEHIND_COST = 0.15  # extra cost of a token after a prefix, whose attention needs a full mask


class TransformersEngine(Closing):
    """A causal language model on the CPU or a GPU, through transformers.

    Args:
        model: A known name, a local folder or a hub name.
        adapter: Folder or hub name of a PEFT adapter.
        device: Such as ``cpu`` or ``cuda``; by default the GPU where there is one.
        dtype: ``auto`` takes bfloat16 if the machine computes in it, else float32 (on a GPU, float16). ``int8``, on the
            CPU only, rounds the weights of linear layers to 8 bits (`genrank.engines.quantised`) and takes ``auto`` for
            the rest: somewhat faster, in less memory, with scores that differ a little.
        batch_tokens: The most tokens, padding included, in one forward pass; by default 1,024 on the CPU (more only
            adds padding there) and 65,536 on a GPU.
        kept_bytes: The most bytes of keys and values to keep of listings (`genrank.engines.heads`); by default 1 GiB on
            the CPU and 4 GiB on a GPU. 0 keeps nothing.
        kept_dtype: How they are kept: ``auto`` as they are, ``int8`` in about half the memory (of bfloat16), with
            scores that differ a little.
        pictures: Whether the model is one that looks at pictures, and is to see them (`ScoreRequest.picture`). A prompt
            with a picture is read as a whole: nothing of it is kept or shared.
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
        model: str = DEFAULT_MODEL,
        *,
        adapter: str | None = None,
        device: str | None = None,
        dtype: Dtype = "auto",
        batch_tokens: int | None = None,
        kept_bytes: int | None = None,
        kept_dtype: Literal["auto", "int8"] = "auto",
        pictures: bool = False,
        trust_remote_code: bool = False,
        check_adapter: bool = True,
    ) -> None:
        if batch_tokens is not None and batch_tokens < 1:
            raise InputError(f"must be at least 1, got {batch_tokens}", field="batch_tokens")
        if kept_bytes is not None and kept_bytes < 0:
            raise InputError(f"must be at least 0, got {kept_bytes}", field="kept_bytes")
        if kept_dtype not in ("auto", "int8"):
            raise InputError(f"must be auto or int8, got {kept_dtype!r}", field="kept_dtype")
        check_dtype(dtype)
        self.model = model
        adapter = None if adapter is None else pinned(adapter)
        self.adapter: str | None = adapter
        try:
            self.device: torch.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError, TypeError) as why:
            said = " ".join(str(why).split())[:200]
            raise InputError(f"cannot use {device!r} ({said}); take cpu, or leave it out", field="device") from None
        on_cpu = self.device.type == "cpu"
        self.batch_tokens: int = batch_tokens or (1024 if on_cpu else 65536)
        if dtype == "int8" and not on_cpu:
            raise InputError(
                "int8 is for the CPU; on a GPU take a checkpoint in AWQ or GPTQ with vLLM, or leave it out",
                field="dtype",
            )
        if dtype == "int8" and pictures:
            raise InputError("int8 is for models of text alone; leave it out, or pictures", field="dtype")
        native = dtype in ("auto", "int8")
        self.dtype: torch.dtype = native_dtype(self.device) if native else getattr(torch, dtype)
        self.dtype_name: str = dtype if dtype == "int8" else str(self.dtype).removeprefix("torch.")
        # the number of tokens that a GPU reads in the time of one more forward pass
        self._least_shared = 64 if on_cpu else 4096
        # the number of tokens that a step of writing may hold without taking much longer
        self._step_tokens = 12 if on_cpu else 512
        self._held_tokens = max(self.batch_tokens, 8192)  # tokens whose keys and values are in one buffer
        self._lock = threading.Lock()
        self._closed = False
        self._lm: Any
        self._lm, tokenizer = load(
            model,
            adapter,
            self.device,
            self.dtype,
            int8=dtype == "int8",
            pictures=pictures,
            trust_remote_code=trust_remote_code,
            check_adapter=check_adapter,
        )
        self._decoder = self._lm.get_decoder()
        self._cache_keyword = cache_keyword(self._decoder)
        self._config = self._lm.config.get_text_config()
        self._pad = 0  # any token with an embedding will do: nothing reads the padding
        self._ends = end_tokens(self._lm, tokenizer)
        self.context: int = longest_context(self._config)
        self.tokenizer: SeeingTokenizer | HubTokenizer = (
            SeeingTokenizer(tokenizer) if pictures else HubTokenizer(tokenizer)
        )
        with reading(model):  # the first time that it runs
            self._own_head = self._head_agrees()
            self._layout = self._find_layout()
        self._reader: PictureReader | None = None
        if isinstance(self.tokenizer, SeeingTokenizer):
            self._reader = PictureReader(resolve(model), self.tokenizer, trust_remote_code=trust_remote_code)
            with reading(model), torch.inference_mode():
                self._see([self._reader.see([0, 0], plain_picture(32, 32), 1)])
        room = (1 << 30 if on_cpu else 4 << 30) if kept_bytes is None else kept_bytes
        packing = Int8(self._layout) if kept_dtype == "int8" and self._layout is not None else Exact()
        self._kept = KeptHeads(room, packing)
        self._none = torch.empty(0, dtype=self.dtype, device=self.device)
        # for the buffers of batches whose keys and values are needed no longer once they are read: fresh memory is slow
        self._scratch = self._none
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
            self._kept = KeptHeads(0, Exact())
            self._scratch = self._none
            gc.collect()  # the model and its hooks refer to each other
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        """Read scores with one forward pass for each batch; see `genrank.engines.base.Engine`.

        The model's output layer is computed only for the requested positions and tokens.
        """
        answers: list[ScoreResult | None] = [None] * len(requests)

        def read(rows: list[_Row]) -> None:
            alike = defaultdict[tuple[int, ...], list[_Row]](list)
            for row in rows:
                alike[tuple(requests[row.place].targets)].append(row)
            for targets, members in alike.items():
                reads = [[at - row.start for at in requests[row.place].reads] for row in members]
                states = torch.cat([row.states[places] for row, places in zip(members, reads, strict=True)])
                scores = iter(self._read(states, list(targets)).tolist())
                for row, places in zip(members, reads, strict=True):
                    request = requests[row.place]
                    tokens = Tokens(prompt=len(row.ids), cached=row.cached)
                    answer = ScoreResult(list(itertools.islice(scores, len(places))), tokens, row.found)
                    answers[row.place] = answer
                    stop.publish(request, answer)

        with contextlib.suppress(_Stopped):
            for places in self._rounds(requests):
                limits = {i: min(requests[i].reads, default=0) for i in places if requests[i].picture is None}
                self._prefill(requests, limits, read, stop, caches=False)
            pictured = [i for i, request in enumerate(requests) if request.picture is not None]
            for start in range(0, len(pictured), _SEEN_TOGETHER):
                self._read_pictures(requests, pictured[start : start + _SEEN_TOGETHER], read, stop)
        return answers

    def picture_tokens(self, edge: int) -> int:
        """The most tokens that a picture takes whose longer edge has `edge` pixels.

        Raises:
            InputError: When the engine was created without pictures.
        """
        if self._reader is None:
            raise InputError(
                "the engine transformers was created without them; create it with TransformersEngine(model, "
                "pictures=True) and a model that looks at pictures, or leave pictures out",
                field="pictures",
            )
        sizes = ((edge, edge), (edge, max(1, edge // 2)), (max(1, edge // 2), edge))
        return max(self._reader.see([], plain_picture(*size), 0).added for size in sizes)

    def _read_pictures(
        self, requests: Sequence[ScoreRequest], places: Sequence[int], use: Callable[[list[_Row]], None], stop: Stop
    ) -> None:
        """Read prompts with pictures, each as a whole, in batches of similar length.

        Args:
            requests: The call's requests.
            places: Those with a picture.
            use: Called with the rows of each batch.
            stop: Checked before each forward pass.
        """
        if self._reader is None:
            raise EngineError(f"the engine of {self.model} was created without pictures")
        alike = defaultdict[tuple[object, ...], list[tuple[int, Seen]]](list)
        for i in places:
            request = requests[i]
            if stop():
                return
            if request.picture is not None:
                if min(request.reads, default=request.picture_at) < request.picture_at:
                    raise EngineError("a prompt with a picture is read behind it only")
                seen = self._reader.see(request.ids, request.picture, request.picture_at)
                if len(seen.ids) > self.context:
                    raise EngineError(f"{len(seen.ids)} tokens exceed the {self.context} that {self.model} takes")
                alike[seen.shape].append((i, seen))
        for members in alike.values():
            left = sorted(members, key=lambda member: -len(member[1].ids))
            while left:
                most = max(1, self.batch_tokens // len(left[0][1].ids))
                chosen, left = left[:most], left[most:]
                with self._turn(stop) as go:
                    if not go:
                        return
                    states = self._see([seen for _, seen in chosen])
                    # reads are places in the prompt without its picture, whose tokens come before all of them
                    use(
                        [
                            _Row(i, s.ids, -s.added, states[row], None, 0, found=False)
                            for row, (i, s) in enumerate(chosen)
                        ]
                    )

    def _see(self, prompts: Sequence[Seen]) -> torch.Tensor:
        """`_forward` of whole prompts with pictures."""
        inputs = batch(prompts, self._pad, self.device, self.dtype)
        if self._own_head:
            return cast(torch.Tensor, self._lm.base_model(**inputs, use_cache=False).last_hidden_state)
        return cast(torch.Tensor, self._lm(**inputs, use_cache=False).logits)

    def keep(
        self, requests: Sequence[ScoreRequest], *, stop: Stop = never, into: SnapshotWriter | None = None
    ) -> list[ScoreResult | None]:
        """Read prompts that are heads, to have them kept; nothing is scored.

        Args:
            requests: Prompts that end with their head, or with its opening.
            stop: Says when to give up.
            into: Takes the heads too, found or new.

        Returns:
            For each request a result without scores, which says whether its head was found; None if it was not
            finished.

        Raises:
            EngineError: When the model cannot be run, or nothing of its prompts can be kept.
        """
        if self._layout is None:
            raise EngineError(f"of prompts for {self.model} nothing can be kept: it has layers without keys and values")
        if not self._kept.room and into is None:
            raise InputError("is 0, so nothing is kept; create the engine with another", field="kept_bytes")
        answers: list[ScoreResult | None] = [None] * len(requests)
        new = defaultdict[bytes, list[int]](list)
        for i, request in enumerate(requests):
            ids = request.ids[: request.head]
            if (found := self._kept.find(ids)) is not None:
                answers[i] = ScoreResult((), Tokens(prompt=len(request.ids), cached=len(request.ids)), found=True)
                if into is not None:
                    into.add(key_of(ids), found)
            else:
                new[key_of(ids)].append(i)

        def done(rows: list[_Row]) -> None:
            for row in rows:
                request = requests[row.place]
                ids = request.ids[: request.head]
                for i in new[key_of(ids)]:
                    answers[i] = ScoreResult((), Tokens(prompt=len(row.ids), cached=row.cached))
                if into is not None and row.kv is not None:
                    opening = request.ids[request.head :]
                    pack = self._kept.pack
                    into.add(key_of(ids), self._kept.find(ids) or pack(ids, row.kv, lead=request.lead, opening=opening))

        limits = {same[0]: len(requests[same[0]].ids) - 1 for same in new.values()}
        with contextlib.suppress(_Stopped):
            self._prefill(requests, limits, done, stop, caches=True)
        return answers

    def bound_to(self) -> dict[str, str]:
        """What kept keys and values depend on, by name: a snapshot of them fits only an engine with the same.

        Raises:
            ModelError: When the files of the model or the adapter cannot be read.
        """
        return {
            "model": model_fingerprint(resolve(self.model)),
            "adapter": files_fingerprint(find_adapter(self.adapter)) if self.adapter is not None else "none",
            "dtype": self.dtype_name,
            "kept_dtype": self._kept.packing.name,
        }

    def open_snapshot(self, path: str | Path, bound: Mapping[str, str]) -> Snapshot:
        """Use the heads in a snapshot, beside those that are kept in memory; replaces one that was opened before.

        Args:
            path: The file.
            bound: `bound_to`, and what else the snapshot was made with.

        Raises:
            ConfigError: When it was made with something else; names it.
            DataFormatError: When the file is not a whole snapshot.
        """
        self._kept.snapshot = snapshot = Snapshot(path, bound)
        return snapshot

    def forget(self) -> None:
        """Drop everything that is kept, and close the snapshot."""
        self._kept = KeptHeads(self._kept.room, self._kept.packing)

    @property
    def held_bytes(self) -> int:
        """Bytes of keys and values that are kept in memory; those of a snapshot do not count."""
        return self._kept.taken

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
            if sum(len(requests[row.place].ids) for row in waiting) >= self._held_tokens:
                write_waiting()

        with contextlib.suppress(_Stopped):
            limits = {i: len(request.ids) - 1 for i, request in enumerate(requests)}
            self._prefill(requests, limits, wait, stop, caches=True)
            with self._turn(stop) as go:
                if go and waiting:
                    write_waiting()

    def _rounds(self, requests: Sequence[ScoreRequest]) -> list[list[int]]:
        """Places of requests to be read one after the other: what begins like an earlier one waits for its head."""
        first, later = list[int](), list[int]()
        seen = set[bytes]()
        for i, request in enumerate(requests):
            head = request.ids[: request.head]
            waits = bool(head) and key_of(head) in seen and not self._kept.find(head)
            (later if waits else first).append(i)
            if head:
                seen.add(key_of(head))
        return [first, later] if later else [first]

    def _prefill(
        self,
        requests: Sequence[R],
        limits: Mapping[int, int],
        use: Callable[[list[_Row]], None],
        stop: Stop,
        *,
        caches: bool,
    ) -> None:
        """Read prompts in batches of similar length, from where their kept heads end.

        Args:
            requests: The call's requests.
            limits: For each prompt to read, by its place, the number of first tokens whose states are not needed.
            use: Called with the rows of each batch.
            stop: Checked before each forward pass.
            caches: Whether the rows need their keys and values.
        """
        check_lengths([requests[i] for i in limits], self.context, self.model)
        for pasts, prefix in self._groups(requests, limits):
            cached = {i: past.tokens for i, past in pasts.items()}
            if prefix:
                first, past = next(iter(pasts.items()))
                with self._turn(stop) as go:
                    if not go:
                        return
                    _, buffer = self._extend([past], [requests[first].ids[past.tokens : prefix]], caches=True)
                    read = _Past(prefix, rows=buffer.of(0, 0, prefix) if buffer else None)
                pasts = dict.fromkeys(pasts, read)
                cached = {i: known if i == first else prefix for i, known in cached.items()}  # the first one pays
            for members in self._batches(requests, pasts, stop):
                with self._turn(stop) as go:
                    if not go:
                        return
                    mine = [pasts[i] for i in members]
                    tails = [requests[i].ids[pasts[i].tokens :] for i in members]
                    keeps = any(self._to_keep(requests[i], pasts[i]) for i in members)
                    states, buffer = self._extend(mine, tails, caches=caches, keeps=keeps)
                    rows = []
                    for row, i in enumerate(members):
                        ids, past = requests[i].ids, pasts[i]
                        kv = buffer.of(row, 0, len(ids)) if buffer else None
                        tail = states[row, : len(tails[row])]
                        found = past.head is not None
                        rows.append(_Row(i, ids, past.tokens, tail, kv, cached[i], found))
                        if kv is not None and keeps:
                            self._keep(requests[i], past, kv)
                    use(rows)

    def _groups(self, requests: Sequence[R], limits: Mapping[int, int]) -> Iterator[tuple[dict[int, _Past], int]]:
        """Groups of prompts to be read together, and how many first tokens of a group to read once, before it.

        Yields:
            By place, what is known of each prompt; and the length of the prefix, known tokens included, or 0.
        """
        if self._layout is None:
            yield dict.fromkeys(limits, _Past(0)), 0
            return
        pasts = {i: self._known(requests[i], limit) for i, limit in limits.items()}
        if found := {i: past for i, past in pasts.items() if past.head is not None}:
            yield found, 0
        starts = defaultdict[bytes, list[int]](list)
        for i in pasts.keys() - found.keys():
            starts[key_of(requests[i].ids[: pasts[i].tokens])].append(i)
        for members in map(sorted, starts.values()):
            known = pasts[members[0]].tokens
            rests = [requests[i].ids[known:] for i in members]
            cost = 0 if known else _BEHIND_COST
            for group in share(rests, [limits[i] - known for i in members], self._least_shared, cost):
                together = {members[place]: pasts[members[place]] for place in group.members}
                yield together, known + group.prefix if group.prefix else 0

    def _known(self, request: R, limit: int) -> _Past:
        """What is kept of a prompt, up to `limit` tokens."""
        ids, (lead, head, _) = request.ids, _beginning(request)
        if head and limit >= lead and (found := self._kept.find(ids[:head])):
            return _Past(min(found.known(ids), limit), head=found)
        pays = _BEHIND_COST * (len(ids) - lead) <= lead <= limit
        rows = self._kept.find_lead(ids[:lead]) if lead and pays else None
        return _Past(0) if rows is None else _Past(lead, rows=rows)

    def _to_keep(self, request: R, past: _Past) -> bool:
        """Whether a prompt that was read has something to keep: its head, more of its opening, or its lead."""
        if self._layout is None or not self._kept.room:
            return False
        lead, head, opening = _beginning(request)
        if head:
            return past.head is None or len(past.head.opening) < opening
        return bool(lead) and self._kept.find_lead(request.ids[:lead]) is None

    def _keep(self, request: R, past: _Past, kv: torch.Tensor) -> None:
        """Keep what `_to_keep` says, from the keys and values of the whole prompt."""
        if not self._to_keep(request, past):
            return
        ids, (lead, head, opening) = request.ids, _beginning(request)
        if not head:
            self._kept.put_lead(ids[:lead], kv[:lead])
            return
        stop = head + opening
        self._kept.put(ids[:head], self._kept.pack(ids[:head], kv[:stop], lead=lead, opening=ids[head:stop]))

    def _batches(self, requests: Sequence[R], pasts: Mapping[int, _Past], stop: Stop) -> Iterator[list[int]]:
        """Batches of prompts with similar numbers of tokens to read, the most first, at most `batch_tokens` each.

        With a deadline, batches are smaller, so that something is finished when it passes. A prompt that could not be
        read in the time left, even at the speed of the fastest pass so far, is skipped.
        """

        def tokens(i: int) -> tuple[int, int]:
            whole = len(requests[i].ids)
            return whole - pasts[i].tokens, whole

        left = sorted(pasts, key=tokens, reverse=True)
        while left:
            longest, whole = tokens(left[0])
            most = min(self.batch_tokens // longest, self._held_tokens // whole)
            if (seconds := stop.left()) is not None:
                one = longest * self._seconds_a_token
                if one > seconds:
                    del left[0]
                    continue
                most = min(most, int(seconds / 2 / one)) if one else 1
            most = max(1, most)
            yield left[:most]
            del left[:most]

    def _extend(
        self, pasts: Sequence[_Past], tails: Sequence[Sequence[int]], *, caches: bool, keeps: bool = False
    ) -> tuple[torch.Tensor, Buffer | None]:
        """Read the tokens after `pasts`.

        Args:
            pasts: ``[b]`` what is known of each prompt.
            tails: ``[b]`` the tokens after it.
            caches: Whether all keys and values are needed for longer than until the next call.
            keeps: Whether they are needed until then.

        Returns:
            States, ``[b, longest tail, width]``; keys and values, if they are needed or there were some before.
        """
        # padding on the right needs no mask in a causal model: no real token sees it
        ids = torch.tensor(_even(tails, self._pad), device=self.device)
        buffer = None
        if self._layout is not None and (caches or keeps or any(past.tokens for past in pasts)):
            starts = [past.tokens for past in pasts]
            if not caches:
                size = len(starts) * (max(starts) + ids.shape[1]) * self._layout.width
                if self._scratch.numel() < size and size * self._scratch.element_size() <= _MOST_SCRATCH:
                    self._scratch = self._scratch.new_empty(size)
            buffer = Buffer(self._layout, starts, ids.shape[1], self._none if caches else self._scratch)
            for row, past in enumerate(pasts):
                if past.head is not None:
                    past.head.fill(buffer, row, past.tokens, self._kept.packing)
                elif past.rows is not None:
                    buffer.of(row, 0, past.tokens).copy_(past.rows)
        started = time.perf_counter()
        states = self._forward(input_ids=ids, **(buffer.inputs(ids.shape[1]) if buffer else {"use_cache": False}))
        if ids.numel() >= _MEASURED:
            seconds = (time.perf_counter() - started) / ids.numel()
            self._seconds_a_token = min(seconds, self._seconds_a_token or seconds)
        return states, buffer

    def _permute(self, rows: list[_Row], requests: list[PermuteRequest], stop: Stop, done: Done[PermuteResult]) -> None:
        masks = [PermutationMask(tuple(request.identifiers), tuple(request.between)) for request in requests]
        written: list[list[int]] = [[] for _ in rows]
        step = 1 + len(requests[0].between)
        writer = _BatchWriter(self, rows, [total_tokens(request) for request in requests])
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
        # guesses that are wrong are taken back, so only where the model's state is nothing but keys and values
        most = max(0, self._step_tokens // len(rows) - 1) if self._layout is not None else 0
        drafts = [Draft(row.ids if most else ()) for row in rows]
        writer = _BatchWriter(self, rows, [total_tokens(request) + most for request in requests])
        unfinished = set(range(len(rows)))

        def finish(row: int) -> None:
            answer = written[row]
            ended = bool(answer) and answer[-1] in ends[row]
            if ended or len(answer) >= requests[row].max_tokens:
                unfinished.remove(row)
                text = self.tokenizer.decode(answer[:-1] if ended else answer)
                done(row, TextResult(text, Tokens(len(rows[row].ids), rows[row].cached, len(answer))))

        def add(row: int, token: int) -> None:
            written[row].append(token)
            drafts[row].add([token])
            finish(row)

        for row in range(len(rows)):
            finish(row)
        following: list[int] = self._likeliest(writer.last)
        while unfinished and not stop():
            for row in sorted(unfinished):
                add(row, following[row])
            if not unfinished:
                break
            guesses = [drafts[row].guess(most) if row in unfinished else [] for row in range(len(rows))]
            runs = [[token, *guess] for token, guess in zip(following, guesses, strict=True)]
            likeliest = self._likeliest(writer.write(_even(runs, self._pad)))
            for row in sorted(unfinished):
                agreed = 0
                for token in guesses[row]:
                    if row not in unfinished or token != likeliest[row][agreed]:
                        break
                    add(row, token)
                    agreed += 1
                following[row] = likeliest[row][agreed]
            if unfinished and most:
                writer.take_back([len(written[row]) if row in unfinished else None for row in range(len(rows))])

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

    def _forward(self, *, cache: Any = None, **inputs: Any) -> torch.Tensor:
        """The input of `_read`: hidden states ``[b, length, width]``, or logits if the head must run as a whole."""
        if cache is not None:
            inputs[self._cache_keyword] = cache
        if self._own_head:
            return cast(torch.Tensor, self._decoder(**inputs).last_hidden_state)
        return cast(torch.Tensor, self._lm(**inputs).logits)

    def _likeliest(self, states: torch.Tensor) -> Any:
        """``[...]`` the likeliest next tokens as lists, from ``[..., width]`` outputs of `_forward`."""
        logits = self._lm.get_output_embeddings()(states) if self._own_head else states
        return logits.argmax(-1).tolist()

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

    def _find_layout(self) -> Layout | None:
        """How this model's keys and values lie in a buffer; None if its state is more than those."""
        if not can_be_cut(self._config):
            return None
        cache = DynamicCache()
        with torch.inference_mode():
            self._forward(input_ids=torch.zeros((1, 2), dtype=torch.long, device=self.device), cache=cache)
        return Layout.of(cache)


class _Stopped(Exception):  # noqa: N818 - a signal, not an error
    """Raised in the middle of a forward pass whose call was given up."""


@dataclass(frozen=True, slots=True)
class _Past:
    """The first tokens of a prompt whose keys and values are known.

    Attributes:
        tokens: How many.
        head: The kept head that holds them, if one does.
        rows: ``[tokens, row]`` their keys and values, if there is no head.
    """

    tokens: int
    head: Head | None = None
    rows: torch.Tensor | None = None


@dataclass
class _Row:
    """A prompt that was read.

    Attributes:
        place: Index of its request in the call, 0-based.
        ids: The prompt's tokens.
        start: Position of the token whose state is ``states[0]``, 0-based.
        states: States of the prompt's last tokens, from `_forward`.
        kv: ``[tokens, row]`` keys and values of the whole prompt; None without a buffer that holds them.
        cached: Tokens that were not read, because their keys and values were kept, or shared with another prompt.
        found: Whether the prompt's head was kept.
    """

    place: int
    ids: Sequence[int]
    start: int
    states: torch.Tensor
    kv: torch.Tensor | None
    cached: int
    found: bool


class _BatchWriter:
    """Continues several prompts at once, by the same number of tokens in each step.

    Args:
        engine: Runs the model.
        rows: ``[b]`` the prompts.
        lengths: ``[b]`` the most tokens of each, prompt and answer together.

    Attributes:
        last: ``[b, width]`` output of `_forward` for each row's last token.
    """

    def __init__(self, engine: TransformersEngine, rows: list[_Row], lengths: Sequence[int]) -> None:
        self._engine = engine
        self._texts = [list(row.ids) for row in rows]
        self._buffer = None
        self.last = torch.stack([row.states[-1] for row in rows])
        kept = [row.kv for row in rows if row.kv is not None]
        if engine._layout is not None and kept:
            more = max(length - len(row.ids) for row, length in zip(rows, lengths, strict=True))
            self._buffer = Buffer(engine._layout, [len(row.ids) for row in rows], more, engine._none)
            for row, kv in enumerate(kept):
                self._buffer.of(row, 0, len(kv)).copy_(kv)

    def write(self, tokens: list[list[int]]) -> torch.Tensor:
        """Append ``[b][k]`` tokens to the rows; returns ``[b, k, width]`` outputs of `_forward`."""
        count = len(tokens[0])
        if self._buffer is None:  # the model's state cannot be split by row, so read everything again
            self._texts = [[*text, *new] for text, new in zip(self._texts, tokens, strict=True)]
            read, _ = self._engine._extend([_Past(0)] * len(self._texts), self._texts, caches=False)
            ends = map(len, self._texts)
            states = torch.stack([read[row, end - count : end] for row, end in enumerate(ends)])
        else:
            ids = torch.tensor(tokens, device=self._buffer.rows.device)
            states = self._engine._forward(input_ids=ids, **self._buffer.inputs(count))
        self.last = states[:, -1]
        return states

    def take_back(self, kept: Sequence[int | None]) -> None:
        """Forget appended tokens: ``[b]`` how many of them each row keeps; None for a row that is finished."""
        if self._buffer is not None:
            texts = zip(self._texts, kept, strict=True)
            self._buffer.cut([None if count is None else len(text) + count for text, count in texts])


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


def _beginning(request: ScoreRequest | PermuteRequest | TextRequest) -> tuple[int, int, int]:
    """The request's `lead`, `head` and `opening`, in tokens; 0 for what its kind does not have."""
    match request:
        case ScoreRequest():
            return request.lead, request.head, request.opening
        case TextRequest():
            return request.lead, 0, 0
    return 0, 0, 0


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
