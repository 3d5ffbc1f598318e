"""What ranks in a batch job: as data, which can be hashed and sent to another machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from genrank.adapters import load_manifest, pinned
from genrank.cascade import Cascade
from genrank.files import files_fingerprint
from genrank.models.registry import DEFAULT_MODEL
from genrank.models.store import resolve
from genrank.models.weights import model_fingerprint
from genrank.prompting.template import load_template
from genrank.reranker import DEFAULT_PROMPTS, Reranker, default_decoding, is_address
from genrank.types import Combine, Decoding, Dtype, Strategy

_SHOWN = 16  # hex digits


class Maker(Protocol):
    """Makes a ranker, in this process or in another one."""

    def make(self) -> Reranker | Cascade:
        """Load the model.

        Raises:
            GenrankError: When it cannot be had.
        """


@dataclass(frozen=True)
class Settings:
    """The options of a `genrank.Reranker`, and of the second stage of a `genrank.Cascade`.

    Attributes:
        fallback: Folder of a trained BERT + GBDT ranker.
        snapshot: Listings that ``genrank warm`` read beforehand.
        then: Decoding of the second stage; None for one stage.
        then_top: How many items it ranks again.
        then_scores: What becomes of their scores.
    """

    model: str | None = None
    adapter: str | None = None
    engine: str = "transformers"
    dtype: Dtype = "auto"
    prompt: str | None = None
    decoding: Decoding | None = None
    strategy: Strategy | None = None
    window: int | None = None
    stride: int | None = None
    passes: int | None = None
    seed: int = 0
    max_prompt_tokens: int | None = None
    calibration: str | None = None
    blend: float | Literal[False] | None = None
    trust_remote_code: bool = False
    fallback: str | None = None
    snapshot: str | None = None
    then: Decoding | None = None
    then_top: int = 10
    then_scores: Combine = "replace"

    def make(self) -> Reranker | Cascade:
        """Load the model.

        Raises:
            GenrankError: When it cannot be had, or an option is wrong.
        """
        fallback = None
        if self.fallback:
            from genrank.rankers.gbdt import load_fallback

            fallback = load_fallback(self.fallback)
        reranker = Reranker(
            self.model,
            adapter=self.adapter,
            dtype=self.dtype,
            engine=self.engine,
            prompt=self.prompt,
            decoding=self.decoding,
            strategy=self.strategy,
            window=self.window,
            stride=self.stride,
            passes=self.passes,
            seed=self.seed,
            max_prompt_tokens=self.max_prompt_tokens,
            calibration=self.calibration,
            blend=self.blend,
            fallback=fallback,
            trust_remote_code=self.trust_remote_code,
        )
        try:
            if self.snapshot:
                reranker.open_snapshot(self.snapshot)
            if self.then is None:
                return reranker
            second = Reranker(engine=reranker.engine, decoding=self.then, seed=self.seed, blend=False)
            return Cascade(reranker, second, top=self.then_top, scores=self.then_scores)
        except BaseException:
            reranker.close()
            raise

    def identity(self) -> dict[str, str]:
        """What the rankings depend on, by name, with hashes of files; no model is loaded.

        A server's weights cannot be hashed: the names of its model and adapter stand for them.

        Raises:
            GenrankError: When the model, the adapter or the prompt cannot be found or read.
            OSError: When a file cannot be read.
        """
        options = (
            "dtype", "decoding", "strategy", "window", "stride", "passes", "seed", "max_prompt_tokens", "blend",
            "then", "then_top", "then_scores",
        )  # fmt: skip
        found = {name: str(value) for name in options if (value := getattr(self, name)) is not None}
        for name in ("calibration", "fallback"):
            if (path := getattr(self, name)) is not None:
                found[name] = files_fingerprint(path)[:_SHOWN]
        if is_address(self.engine):
            with self.make() as ranker:
                first = ranker.first if isinstance(ranker, Cascade) else ranker
                found |= {"model": first.engine.model, "prompt": first.template.digest, "ranker": ranker.fingerprint}
            return found
        model = self.model or DEFAULT_MODEL
        found["model"] = model_fingerprint(resolve(model))[:_SHOWN]
        adapter = None
        if self.adapter is not None:
            from genrank.engines.loading import find_adapter  # numpy

            adapter = pinned(self.adapter)
            found["adapter"] = files_fingerprint(find_adapter(adapter))[:_SHOWN]
        return found | {"prompt": self._prompt(adapter)}

    def _prompt(self, adapter: str | None) -> str:
        """The prompt template's name and hash."""
        decoding = self.decoding or default_decoding(adapter, self.prompt)
        manifest = load_manifest(adapter) if adapter is not None else None
        trained = manifest.prompts.get(decoding) if manifest else None
        template = load_template(self.prompt or (trained.name if trained else DEFAULT_PROMPTS[decoding]))
        return f"{template.name} {template.digest}"
