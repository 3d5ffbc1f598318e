"""What all trainings share: loading data and model, ranking the dev queries, saving the adapter."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from trl import ModelConfig
from trl.trainer.utils import get_quantization_config

from finetune.arguments import DataArguments
from finetune.data import SCORED_BY, Form
from finetune.windows import MEASURED, check_splits, drop_leaks
from genrank import Request, Reranker
from genrank.adapters import Manifest, TrainedPrompt, best_served, load_manifest, merge_values, save_manifest
from genrank.data.dataset import Dataset
from genrank.decoding import DECODINGS
from genrank.engines.loading import check_base, load_adapter
from genrank.engines.loading import load_model as load_causal_lm
from genrank.engines.tokenizer import HubTokenizer
from genrank.engines.transformers import TransformersEngine
from genrank.errors import ConfigError, InputError
from genrank.experiment.datasets import has_gain, load_dataset
from genrank.experiment.metrics import listing_ids, ndcg_of
from genrank.experiment.program import say
from genrank.experiment.record import versions
from genrank.models.registry import DEFAULT_MODEL
from genrank.models.store import resolve
from genrank.models.weights import weights_fingerprint
from genrank.prompting.renderer import Renderer
from genrank.prompting.template import Template, load_template, template_names
from genrank.reranker import DEFAULT_PASSES
from genrank.text.language import language
from genrank.types import Decoding, Strategy


def load_data(data: DataArguments, seed: int) -> tuple[list[Dataset], Dataset, list[Request]]:
    """The datasets to train on, the one whose dev queries are ranked during training, and these queries.

    Raises:
        InputError: When queries for measuring would be trained on too, or only queries with a gain are ranked and no
            dev query has one.
    """
    loaded = [load_dataset(dataset, seed) for dataset in data.datasets]
    dev = load_dataset(data.dev, seed) if data.dev else loaded[0]
    everything = [*loaded, dev, *(load_dataset(dataset, seed) for dataset in data.measured)]
    if data.leaks == "drop":
        for i, dataset in enumerate(loaded):
            loaded[i], count = drop_leaks(dataset, everything, "train", MEASURED)
            say(f"left out: {count} train queries of {dataset.name} that are measured too")
    else:
        check_splits(everything, "train", MEASURED)
    requests = (dev.request(query, data.dev_candidates) for query in dev.split("dev"))
    ranked = (request for request in requests if not data.with_gain or has_gain(request, dev))
    chosen = list(itertools.islice(ranked, data.dev_queries))
    if not chosen:
        raise InputError(f"no dev query of {dev.name} has a candidate with a gain; leave it out", field="with_gain")
    return loaded, dev, chosen


def shortened(dataset: Dataset, data: DataArguments) -> Dataset:
    """The dataset with the train queries that are trained on.

    They are the first ones, in the file's order, of the languages asked for and, with ``with_gain``, with a gain. The
    file's ids are hashes, so its order is random.

    Raises:
        InputError: When there are none.
    """
    learned = [
        one for one in dataset.split("train") if not data.languages or language(one.query.text) in data.languages
    ]
    if not learned:
        raise InputError(f"{dataset.name} has no train query in {', '.join(data.languages)}", field="languages")
    if data.with_gain:
        learned = [one for one in learned if has_gain(dataset.request(one), dataset)]
        if not learned:
            raise InputError(
                f"no train query of {dataset.name} has a candidate with a gain; leave it out", field="with_gain"
            )
    count = round(len(learned) * data.share)
    if data.most_windows is not None:
        count = min(count, data.most_windows // data.windows_per_query)
    kept = {one.query.query_id for one in learned[: max(1, count)]}
    queries = [query for query in dataset.queries if query.split != "train" or query.query.query_id in kept]
    return dataclasses.replace(dataset, queries=queries)


def model_name(model: ModelConfig) -> str:
    """The name of the model to train; genrank's default model if none is given."""
    return model.model_name_or_path or DEFAULT_MODEL


def load_model(folder: Path, training: Any, model: ModelConfig) -> Any:
    """The model to train, or to train an adapter for, as the options ask for it.

    With ``dtype: auto``, frozen weights are in bfloat16 if ``bf16`` is on; others are in float32.

    Raises:
        InputError: When another revision than the fetched one is asked for, or accelerate is asked to split the model
            among CPUs, which it cannot.
        ModelError: When the files are broken or do not fit, or it is not a causal language model.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and training.device.type == "cpu":
        raise InputError(
            "FSDP needs GPUs, and there is none: accelerate would give each process the whole model; for several "
            "processes on CPUs, launch with torchrun --standalone --nproc_per_node 2 -m finetune.sft --use_cpu true",
            field="distributed_type",
        )
    if model.model_revision not in (None, "main"):
        raise InputError(
            f"must be left out, got {model.model_revision!r}: fetch that revision, and give its folder as "
            "model_name_or_path",
            field="model_revision",
        )
    native = "bfloat16" if training.bf16 and model.use_peft else "float32"
    return load_causal_lm(
        folder,
        trust_remote_code=getattr(training, "trust_remote_code", False),
        dtype=native if model.dtype in (None, "auto") else model.dtype,
        attn_implementation=model.attn_implementation,
        quantization_config=get_quantization_config(model),
    )


def compile_layers(model: Any) -> None:
    """Have PyTorch compile the decoder's layers in place, so that they read and write their states less often.

    The first step takes about a minute longer. The compiled code works for rows of any length.

    Args:
        model: A causal language model of transformers, with or without adapters.

    Raises:
        InputError: When there is no C++ compiler, which PyTorch needs on a CPU.
    """
    compiler = os.environ.get("CXX", "g++")
    if model.device.type == "cpu" and shutil.which(compiler) is None:
        raise InputError(
            f"needs a C++ compiler, and there is no {compiler}: install it (Debian: apt-get install g++), name another "
            "one in the environment variable CXX, or leave this out",
            field="compile_layers",
        )
    kinds = set(model.get_decoder()._no_split_modules or ())
    for layer in model.modules():
        if type(layer).__name__ in kinds:
            layer.compile(dynamic=True)


def load_start(
    adapter: str, base: Any, name: str, folder: Path, templates: Mapping[Form, Template]
) -> tuple[Any, Manifest | None]:
    """An adapter to continue training, and its manifest if it has one.

    Args:
        adapter: Its folder.
        base: The model that it changes.
        name: That model's name, as the options give it.
        folder: Where that model is.
        templates: The prompts to train it with, by form.

    Raises:
        InputError: When there is none, or it was trained for another model or prompt.
        ModelError: When it is broken or does not fit the model.
    """
    path = Path(adapter).expanduser()
    if not (path / "adapter_config.json").is_file():
        raise InputError(
            f"no adapter in {adapter}: adapter_config.json is missing; pass the folder `adapter` of a run of "
            "finetune.sft, or leave it out for a new one",
            field="adapter",
        )
    manifest = load_manifest(path)
    if manifest is not None:
        try:
            check_base(path, name, folder)
        except ConfigError as error:
            raise InputError(f"{error} (model_name_or_path)", field="adapter") from None
        for form, template in templates.items():
            trained = manifest.prompts.get(form)
            if trained is None or trained.hash != template.digest:
                known = f"{trained.name} of hash {trained.hash}" if trained else f"no {form} prompt"
                raise InputError(
                    f"{template.name} of hash {template.digest} is not what {adapter} was trained with: {known}; pass "
                    "the prompt of its training, or train it with this one",
                    field=f"{form}_prompt",
                )
    return load_adapter(base, path, name, is_trainable=True), manifest


def dev_ranker(
    dataset: Dataset,
    requests: Sequence[Request],
    model: str,
    prompts: Mapping[Decoding, str],
    read: Callable[[Any], dict[str, float]] | None = None,
) -> Callable[[Path], dict[str, float]]:
    """A function that ranks requests with the adapter, or the whole model, of a folder.

    All candidates of a request are in one window, except for ``pointwise``, and there is one pass.

    Args:
        dataset: With the judgements and gains.
        requests: The requests to rank.
        model: The base model.
        prompts: Template by decoding.
        read: Measures something else with the engine; returns figures by name.

    Returns:
        nDCG@10 of each decoding, and of the first of them as ``ndcg@10``; what `read` returns.
    """

    def rank(folder: Path) -> dict[str, float]:
        adapter = (folder / "adapter_config.json").exists()
        engine = TransformersEngine(model if adapter else str(folder), adapter=str(folder) if adapter else None)
        found = {}
        for decoding, prompt in prompts.items():
            strategy: Strategy = "each" if decoding == "pointwise" else "single"
            reranker = Reranker(engine=engine, prompt=prompt, decoding=decoding, strategy=strategy, passes=1)
            orders = [listing_ids(ranking) for ranking in reranker.rerank_batch(requests)]
            found[f"ndcg@10_{decoding}"] = ndcg_of(dataset, requests, orders)
        first = {"ndcg@10": next(iter(found.values()))} if found else {}
        return first | found | (read(engine) if read else {})

    return rank


def ranked_metrics(trainer: Any, rank_dev: Callable[[Path], dict[str, float]]) -> dict[str, float]:
    """The metrics of a trainer's ``evaluate``: the dev queries are ranked with the adapter in its current state."""
    with tempfile.TemporaryDirectory() as folder:
        trainer.save_model(folder)  # called by all processes, each of which may hold a part; the first writes and ranks
        found = [rank_dev(Path(folder)) if trainer.is_world_process_zero() else {}]
    metrics = {f"eval_{name}": value for name, value in broadcast_object_list(found)[0].items()}
    trainer.model.eval()  # GRPOTrainer would log its training metrics with it
    trainer.log(dict(metrics))
    trainer.model.train()
    trainer.control = trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, metrics)
    return metrics


def learned_prompts(prompts: Sequence[tuple[Form, str]], tokenizer: Any) -> dict[Decoding, TrainedPrompt]:
    """The prompts for an adapter's manifest, by the decodings that they serve."""
    found: dict[Decoding, TrainedPrompt] = {}
    for form, prompt in prompts:
        renderer = Renderer(load_template(prompt), HubTokenizer(tokenizer))
        tokens = renderer.answer.identifiers if form == "listwise" else ()
        names = tuple(renderer.tokenizer.decode([token]).strip() for token in tokens)
        learned = TrainedPrompt(name=renderer.template.name, hash=renderer.template.digest, identifiers=names)
        served: tuple[Decoding, ...] = ("first-token", "listwise") if form == "listwise" else (SCORED_BY[form],)
        found |= dict.fromkeys(served, learned)
    return found


def other_prompts(start: Manifest | None, learned: Collection[Decoding]) -> dict[Decoding, TrainedPrompt]:
    """The prompts of the previous adapter, besides those trained now, that can still be measured.

    Args:
        start: The previous adapter's manifest.
        learned: The decodings trained now.
    """
    others = {} if start is None else {key: prompt for key, prompt in start.prompts.items() if key not in learned}
    known = {key: others[key] for key in DECODINGS if key in others and others[key].name in template_names()}
    found = {key: prompt for key, prompt in known.items() if load_template(prompt.name).digest == prompt.hash}
    for decoding in others.keys() - found.keys():
        say(f"left out of the manifest: {decoding}, whose prompt {others[decoding].name} is not one of genrank's")
    return found


def save_adapter(
    trainer: Any,
    adapter: Path,
    model: str,
    prompts: Mapping[Any, TrainedPrompt],
    data: Mapping[str, Any],
    rank_dev: Callable[[Path], dict[str, float]],
) -> Manifest | None:
    """Save the trained adapter or model into a folder, with its manifest; all processes must call it.

    Args:
        trainer: A trainer of TRL.
        adapter: The folder.
        model: The base model.
        prompts: Its prompts, by the decodings that they serve; `finetune.understanding` has a name of its own.
        data: The manifest's ``data``.
        rank_dev: Measures the folder.

    Returns:
        The manifest; None in a process that is not the first of several.
    """
    trainer.save_model(str(adapter))
    if not trainer.is_world_process_zero():
        return None
    (adapter / "training_args.bin").unlink(
        missing_ok=True
    )  # a pickle, which nobody should need in order to load an adapter
    if (adapter / "adapter_config.json").exists():
        _only_the_adapter(adapter, model)
    metrics = rank_dev(adapter)
    manifest = Manifest(
        base_model=model,
        base_weights=weights_fingerprint(resolve(model)),
        prompts=prompts,
        data=data,
        metrics=metrics,
        serve=best_served(metrics, DEFAULT_PASSES),
        versions=versions() | {"trl": importlib.metadata.version("trl")},
    )
    save_manifest(manifest, adapter)
    return manifest


def data_of(data: DataArguments, fingerprint: str, start: Manifest | None) -> dict[str, Any]:
    """A manifest's ``data``: the datasets, the fingerprint of the examples, and the same for the previous adapter."""
    before = {} if start is None else {"adapter": dict(start.data)}
    return {"datasets": list(data.datasets), "fingerprint": fingerprint, **before}


def _only_the_adapter(folder: Path, model: str) -> None:
    """Keep only what an adapter needs: no copy of the tokenizer, no local path, no empty model card."""
    for path in folder.iterdir():
        if path.name not in ("adapter_config.json", "adapter_model.safetensors"):
            path.unlink()
    merge_values(folder / "adapter_config.json", {"base_model_name_or_path": model})


def report(manifest: Manifest | None) -> None:
    """Print the manifest of a finished training, in the first process."""
    if manifest is not None:
        print(manifest.model_dump_json())
