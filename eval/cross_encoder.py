"""A BERT cross-encoder, which reads query and listing together and gives one score.

::

    python -m eval.cross_encoder train --config eval/configs/cross-encoder/NAME.yaml [--out FOLDER]
    python -m eval.cross_encoder rank --config eval/configs/cross-encoder/NAME.yaml [--model FOLDER] [-o RUN]

``train`` fits sentence-transformers' `CrossEncoder` (Nogueira & Cho, arXiv 1901.04085) with its `LambdaLoss` (Wang et
al., CIKM 2018) on a dataset's train split, keeps the checkpoint with the best nDCG@10 on dev, and prints one JSON line.
``rank`` writes a TREC run. The folder that ``train`` writes and ``rank`` reads is a sentence-transformers model with a
manifest, ``cross_encoder.json``; `CrossEncoderRanker` loads it, for `eval.run` and as `genrank.Reranker`'s fallback.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from genrank.data.dataset import Dataset
from genrank.data.trec import write_run
from genrank.errors import (
    ConfigError,
    InputError,
    MissingExtraError,
)
from genrank.experiment.config import Strict, load_config
from genrank.experiment.datasets import load_dataset
from genrank.experiment.metrics import candidate_ids, measure, ndcg, run_of
from genrank.experiment.program import exit_status, say
from genrank.experiment.splits import digest, with_dev
from genrank.files import files_fingerprint
from genrank.models.store import resolve
from genrank.progress import quiet_loading
from genrank.search.bm25 import FIELDS, TextField
from genrank.text.clean import clean

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

from genrank.rankers.cross_encoder import (
    FORMAT,
    MANIFEST,
    CrossEncoderRanker,
    CrossEncoderSettings,
    document_text,
    load_cross_encoder,
)

_K = 10
_PACKAGES = ("genrank", "sentence-transformers", "transformers", "torch")


class CrossEncoderConfig(Strict):
    """How a cross-encoder is trained.

    Attributes:
        dataset: A dataset folder, relative to the current directory (``~`` is the home directory), or
            ``sample-shop`` for the one that ships with genrank.
        encoder: Where training starts: a known model, a local folder or a hub name. The folder of a cross-encoder that
            was trained here carries on with its head; any other encoder gets a fresh one.
        fields: The listing's fields that are read, in this order.
        max_length: Tokens of query and listing together; the longer of the two is cut.
        list_size: Maximum number of a query's listings that are compared with one another.
        negatives: Listings of other train queries, drawn at random, that are in each list with gain 0.
        lists_per_step: Lists in one step of the optimiser.
        pairs_per_pass: Pairs that go through the model at once; it changes memory use and speed, not results.
        weighting: Weights of the pairs in LambdaLoss.
        k: LambdaLoss counts only pairs with a listing in the first `k`; None counts all.
        epochs: How often all lists are seen, unless training stops earlier.
        learning_rate: Peak learning rate, after the warm-up; it falls linearly to 0.
        head_learning_rate: The same for a fresh head; None takes `learning_rate`.
        warmup: Share of the steps in which the learning rate rises.
        evaluations: Evaluations on dev in one epoch.
        patience: Training stops after this many evaluations on dev without an improvement.
        dev_share: Share of the train queries used as dev if the dataset has no dev split, as for BERT + GBDT.
        max_candidates: Candidates of each dev query, the first stage's best.
        bfloat16: Compute in bfloat16 (autocast) while training, where the machine has it: without, it takes twice as
            long as float32. The weights and all scores stay float32.
        batch: Pairs that are scored at once.
        seed: Seed of the fresh head, the lists, their order and dropout.
    """

    dataset: str
    encoder: str = "bert-minilm"
    fields: Annotated[tuple[TextField, ...], Field(min_length=1)] = FIELDS
    max_length: Annotated[int, Field(ge=8)] = 96
    list_size: Annotated[int, Field(ge=2)] = 20
    negatives: Annotated[int, Field(ge=0)] = 0
    lists_per_step: Annotated[int, Field(ge=1)] = 2
    pairs_per_pass: Annotated[int, Field(ge=1)] = 20
    weighting: Literal["NDCGLoss2PP", "NDCGLoss2", "LambdaRank"] = "NDCGLoss2PP"
    k: Annotated[int, Field(ge=1)] | None = None
    epochs: Annotated[int, Field(ge=1)] = 4
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    head_learning_rate: Annotated[float, Field(gt=0)] | None = None
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    evaluations: Annotated[int, Field(ge=1)] = 2
    patience: Annotated[int, Field(ge=1)] = 4
    dev_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    max_candidates: Annotated[int, Field(ge=1)] = 20
    bfloat16: bool = False
    batch: Annotated[int, Field(ge=1)] = 64
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, slots=True)
class TrainingList:
    """Some listings of one query, to be ordered.

    Attributes:
        query: Text of the query.
        documents: ``[n]`` texts of listings.
        labels: ``[n]``, ``log2(1 + gain)``: LambdaLoss turns it into a gain by ``2^label - 1``.
    """

    query: str
    documents: tuple[str, ...]
    labels: tuple[float, ...]


def make_lists(dataset: Dataset, config: CrossEncoderConfig) -> list[TrainingList]:
    """The training lists: the judged listings and candidates of each train query, in lists of at most `list_size`.

    A candidate without a judgement has gain 0, as in `eval.metrics`. The listings of a query are dealt so that each of
    its lists gets its share of every grade, and some of other queries' are added; a list whose gains are all the
    same teaches nothing and is left out.

    Raises:
        InputError: When there is no train split, or no query of it has two listings of different gain.
    """
    chance = random.Random(config.seed)
    lists = []
    by_query = {query.query.query_id: _gains(dataset, query.query.query_id) for query in dataset.split("train")}
    catalogue = sorted({key for gains in by_query.values() for key in gains}) if config.negatives else []
    for query in dataset.split("train"):
        gains = by_query[query.query.query_id]
        ids = sorted(gains)
        chance.shuffle(ids)
        ids.sort(key=lambda key: -gains[key])
        count = math.ceil(len(ids) / config.list_size)
        for start in range(count):
            dealt = ids[start::count]
            others = [
                key for key in chance.sample(catalogue, min(config.negatives, len(catalogue))) if key not in gains
            ]
            worth = {key: gains[key] for key in dealt} | dict.fromkeys(others, 0.0)
            if len(set(worth.values())) < 2:
                continue
            texts = {key: document_text(dataset.listings[key], config.fields) for key in worth}
            shown = sorted(worth, key=lambda key: len(texts[key]))  # neighbours are read together: less padding
            lists.append(
                TrainingList(
                    clean(query.query.text),
                    tuple(texts[key] for key in shown),
                    tuple(math.log2(1 + worth[key]) for key in shown),
                )
            )
    if not lists:
        raise InputError(
            f"no train query of {dataset.name} has two listings of different gain; check qrels.trec and the gains of "
            "dataset.toml",
            field="dataset",
        )
    return lists


def _gains(dataset: Dataset, query_id: str) -> dict[str, float]:
    """The gain of each of a query's candidates and judged listings."""
    gains = dict.fromkeys(dataset.candidates.get(query_id, {}), 0.0)
    return gains | {key: max(dataset.grades[grade].gain, 0.0) for key, grade in dataset.qrels.get(query_id, {}).items()}


def train(config: CrossEncoderConfig, dataset: Dataset, out: str | Path) -> dict[str, Any]:
    """Train a cross-encoder and save it.

    Args:
        config: Settings.
        dataset: Training data.
        out: Folder for the model. One that holds an older cross-encoder is replaced; anything else must be empty.

    Returns:
        The manifest's content.

    Raises:
        ConfigError: When `out` holds something else, or there are too few train queries.
        InputError: When the dataset gives nothing to learn from.
        ModelError: When the encoder cannot be fetched or read.
        OutputError: When training diverges.
        MissingExtraError: When sentence-transformers or datasets is not installed.
    """
    root = Path(out).expanduser()
    if root.exists() and not (root / MANIFEST).is_file() and (not root.is_dir() or any(root.iterdir())):
        raise ConfigError(f"{root} exists and is not a cross-encoder; give another --out")
    dataset = with_dev(dataset, config.dev_share, config.seed)
    lists = make_lists(dataset, config)
    dev = [dataset.request(query, config.max_candidates) for query in dataset.split("dev")]
    started = time.monotonic()
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as part:
        model = load_cross_encoder(resolve(config.encoder), config.max_length, config.seed)
        ranker = CrossEncoderRanker(model, CrossEncoderSettings.model_validate(config.model_dump()))
        checkpoints = Path(part) / "checkpoints"
        history = _fit(model, config, lists, lambda: ndcg(dataset, dev, ranker.score(dev), _K), checkpoints)
        saved = Path(part) / "model"
        with quiet_loading():
            model.save_pretrained(str(saved), create_model_card=False)
        best = max(history, key=lambda entry: entry["dev"])
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "settings": config.model_dump(mode="json"),
            "dataset": {
                "name": dataset.name,
                "fingerprint": fingerprint(lists),
                "train_queries": len(dataset.split("train")),
                "dev_queries": len(dev),
                "lists": len(lists),
                "pairs": sum(len(one.documents) for one in lists),
            },
            "dev": {f"nDCG@{_K}": best["dev"], "step": best["step"]},
            "history": history,
            "seconds": round(time.monotonic() - started, 1),
            "versions": {package: importlib.metadata.version(package) for package in _PACKAGES},
            "files": {
                path.relative_to(saved).as_posix(): files_fingerprint(path)
                for path in sorted(saved.rglob("*"))
                if path.is_file()
            },
        }
        (saved / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        if root.exists():
            shutil.rmtree(root)
        saved.rename(root)
    return manifest


def fingerprint(lists: Sequence[TrainingList]) -> str:
    """SHA-256 of the training data, as hex digits."""
    state = hashlib.sha256()
    for one in lists:
        state.update(digest(one.query, *one.documents, *map(repr, one.labels)).encode())
    return state.hexdigest()


def _fit(
    model: CrossEncoder,
    config: CrossEncoderConfig,
    lists: Sequence[TrainingList],
    dev_ndcg: Callable[[], float],
    checkpoints: Path,
) -> list[dict[str, Any]]:
    """Train the model in place, up to its best state on dev.

    Returns:
        ``{"step": .., "dev": .., "seconds": ..}`` for each evaluation on dev; steps are 1-based.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "baseline") from None
    import torch
    from sentence_transformers import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.base.evaluation import BaseEvaluator
    from sentence_transformers.cross_encoder import losses
    from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback

    from genrank.engines.loading import native_dtype

    bfloat16 = config.bfloat16 and native_dtype(model.device) == torch.bfloat16
    if config.bfloat16 and not bfloat16:
        say("this machine does not compute in bfloat16; training in float32")
    started = time.monotonic()
    history: list[dict[str, Any]] = []

    class DevEvaluator(BaseEvaluator):
        def __call__(self, *_: Any, steps: int = -1, **__: Any) -> dict[str, float]:
            value = dev_ndcg()
            history.append({"step": steps, "dev": value, "seconds": round(time.monotonic() - started, 1)})
            say(f"step {steps} of {total}: dev nDCG@{_K} {value:.4f}, {history[-1]['seconds']:.0f} s")
            return {"dev": value}

    look: Any = DevEvaluator
    schemes = {
        "NDCGLoss2PP": losses.NDCGLoss2PPScheme,
        "NDCGLoss2": losses.NDCGLoss2Scheme,
        "LambdaRank": losses.LambdaRankScheme,
    }
    steps_per_epoch = math.ceil(len(lists) / config.lists_per_step)
    total = steps_per_epoch * config.epochs
    look_every = math.ceil(steps_per_epoch / config.evaluations)
    columns = {
        "query": [one.query for one in lists],
        "documents": [one.documents for one in lists],
        "labels": [one.labels for one in lists],
    }
    head = {r"classifier|score": config.head_learning_rate} if config.head_learning_rate else {}
    trainer = CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(
            output_dir=str(checkpoints),
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.lists_per_step,
            learning_rate=config.learning_rate,
            learning_rate_mapping=head,
            warmup_steps=round(config.warmup * total),
            bf16=bfloat16,
            use_cpu=model.device.type == "cpu",
            eval_strategy="steps",
            eval_steps=look_every,
            save_strategy="steps",
            save_steps=look_every,
            save_total_limit=1,
            save_only_model=True,
            load_best_model_at_end=True,
            metric_for_best_model="eval_dev",
            greater_is_better=True,
            logging_strategy="no",
            report_to="none",
            dataloader_pin_memory=False,
            seed=config.seed,
        ),
        train_dataset=datasets.Dataset.from_dict(columns),
        loss=losses.LambdaLoss(model, schemes[config.weighting](), k=config.k, mini_batch_size=config.pairs_per_pass),
        evaluator=look(),
        callbacks=[EarlyStoppingCallback(config.patience)],
    )
    for callback in (PrinterCallback, ProgressCallback):  # both write to stdout
        trainer.remove_callback(callback)
    with quiet_loading():
        trainer.train()
    return history


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a failed run, 2 for a usage or configuration error.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.cross_encoder", description="A BERT cross-encoder.")
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train on a dataset's train split")
    ranking = commands.add_parser("rank", help="write a TREC run")
    for command in (training, ranking):
        command.add_argument("--config", type=Path, required=True, help="a file of eval/configs/cross-encoder")
    training.add_argument(
        "--out", type=Path, help="folder for the model (runs/cross-encoder/NAME of the configuration)"
    )
    ranking.add_argument("--model", type=Path, help="the model's folder (runs/cross-encoder/NAME of the configuration)")
    ranking.add_argument("--split", default="test", help="whose queries are ranked (test)")
    ranking.add_argument("-o", "--output", type=Path, help="the run's file (MODEL-SPLIT.trec)")
    options = parser.parse_args(arguments)
    if options.command == "train":
        return exit_status(lambda: _train(options.config, options.out or _default_folder(options.config)))
    model = options.model or _default_folder(options.config)
    return exit_status(lambda: _rank(options.config, model, options.split, options.output))


def _default_folder(config: Path) -> Path:
    return Path("runs") / "cross-encoder" / config.stem


def _train(path: Path, out: Path) -> None:
    config = load_config(path, CrossEncoderConfig)
    manifest = train(config, load_dataset(config.dataset, config.seed), out)
    kept = {key: manifest[key] for key in ("dataset", "dev", "seconds")}
    print(json.dumps({"model": str(out)} | kept))


def _rank(path: Path, model: Path, split: str, output: Path | None) -> None:
    config = load_config(path, CrossEncoderConfig)
    dataset = load_dataset(config.dataset, config.seed)
    requests = [dataset.request(query, config.max_candidates) for query in dataset.split(split)]
    ranker = CrossEncoderRanker.load(model)
    started = time.monotonic()
    run = run_of(requests, ranker.score(requests))
    seconds = time.monotonic() - started
    measured = measure(run, candidate_ids(requests), dataset.qrels, dataset.grades, k=_K)
    metric = f"nDCG@{_K}"
    output = output or model.with_name(f"{model.name}-{split}.trec")
    write_run(output, run, tag="cross-encoder")
    line = {"run": str(output), "queries": len(run), metric: measured.means[metric], "seconds": round(seconds, 2)}
    print(json.dumps(line))


if __name__ == "__main__":
    sys.exit(main())
