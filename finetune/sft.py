"""Teach a model to rank: ``python -m finetune.sft --config finetune/configs/NAME.yaml [--OPTION VALUE ...]``.

TRL's `SFTTrainer` with PEFT, on windows of dataset folders rendered as in serving. One forward pass of a batch gives
the loss of everything that is served: a ranking loss on the scores that ``pointwise``, ``inline`` and ``first-token``
read, and the text of permutations, reasons and what queries mean. Options are those of
`finetune.arguments.RankingArguments`, of ``trl.SFTConfig`` and of ``trl.ModelConfig``; the configuration file holds the
same names.

A run that was killed continues from its last complete checkpoint in ``output_dir`` when it is started again. The best
adapter by dev nDCG@10 ends up in ``output_dir/adapter`` with its manifest.
"""

from __future__ import annotations

import functools
import itertools
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import datasets
import torch
from accelerate.utils import gather_object
from peft import AdaLoraConfig, LoraConfig
from torch.utils.data import Sampler
from trl import ModelConfig, SFTConfig, SFTTrainer
from trl.trainer.utils import get_peft_config

from finetune.arguments import RankingArguments, parse
from finetune.checkpoints import checkpoint_to_go_on_from
from finetune.data import SCORED_BY, Form, Skipped, examples_fingerprint, make_examples
from finetune.losses import LOSSES, Kind, text_loss
from finetune.packing import collate, keeps_apart
from finetune.quick_lora import quicken
from finetune.reasons import reason_writers
from finetune.training import (
    compile_layers,
    data_of,
    dev_ranker,
    learned_prompts,
    load_data,
    load_model,
    load_start,
    model_name,
    ranked_metrics,
    report,
    save_adapter,
    shortened,
)
from finetune.understanding import METRIC, dev_reader, labels_of, learned_words, make_understanding_examples
from finetune.windows import draw_windows
from genrank.adapters import Manifest, TrainedPrompt
from genrank.data.dataset import Dataset
from genrank.engines.tokenizer import HubTokenizer, check_tokens, load_tokenizer
from genrank.errors import InputError
from genrank.experiment.program import exit_status, say
from genrank.models.store import home, resolve
from genrank.prompting.renderer import Renderer
from genrank.prompting.template import load_template
from genrank.search.understanding.wording import TRAINED

Logits = Callable[[Sequence[int] | None], torch.Tensor]
"""``[p, t]`` logits at the places that a batch reads, of ``[t]`` tokens; None means the whole vocabulary."""


class States:
    """Computes a causal language model's head only at some places, and only for some tokens.

    The decoder's last states are cut down to these places before the model's own head reads them, and
    the head to the rows of these tokens: with a vocabulary of 262,144 and 100 M other parameters, the logits of 50
    places cost as much as a fifth of a training step.

    Args:
        model: Any causal language model of transformers, with or without adapters.
    """

    def __init__(self, model: Any) -> None:
        self._places: tuple[torch.Tensor, torch.Tensor] | None = None
        self._tokens: torch.Tensor | None = None
        model.get_decoder().register_forward_hook(self._cut)
        head = model.get_output_embeddings()
        self._cuts_head = type(head) is torch.nn.Linear
        if self._cuts_head:
            head.forward = functools.partial(self._head, head)

    def logits(
        self,
        model: Any,
        batch: Mapping[str, Any],
        tokens: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Logits ``[p, t]`` in float32 after some tokens.

        Args:
            model: The model, or what wraps it to train on many devices.
            batch: From `finetune.packing.collate`.
            tokens: ``[t]`` tokens whose logits are wanted; None takes the whole vocabulary.
        """
        ids, positions, where = batch["input_ids"], batch["position_ids"], batch["where"]
        self._places = where[:, 0], where[:, 1]
        self._tokens = None if tokens is None else torch.tensor(tokens, device=ids.device)
        try:
            found = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
            if self._tokens is not None and not self._cuts_head:
                found = found[:, self._tokens]
            return cast(torch.Tensor, found.float())
        finally:
            self._places = self._tokens = None

    def _cut(self, _: torch.nn.Module, __: Any, output: Any) -> Any:
        if self._places is not None:
            output.last_hidden_state = output.last_hidden_state[self._places][None]
        return output

    def _head(self, head: torch.nn.Linear, states: torch.Tensor) -> torch.Tensor:
        if self._tokens is None:
            return torch.nn.functional.linear(states, head.weight, head.bias)
        bias = None if head.bias is None else head.bias[self._tokens]
        return torch.nn.functional.linear(states, head.weight[self._tokens], bias)


def batch_losses(logits: Logits, rows: Sequence[Mapping[str, Any]], loss: Kind) -> dict[str, torch.Tensor]:
    """The losses of a batch: of each decoding's scores, and ``text``; each the mean over the examples that have it.

    Args:
        logits: Gives ``[p, t]`` logits of ``[t]`` tokens at the batch's reads and answers, example by example.
        rows: ``[e]`` examples.
        loss: The scores' loss.
    """
    tokens = None
    if not any(row["answers"] for row in rows):  # text is learned against the whole vocabulary, scores are not
        tokens = sorted({token for row in rows for side in ("above", "below") for read in row[side] for token in read})
    column = {token: i for i, token in enumerate(tokens)} if tokens is not None else None
    found = logits(tokens)
    losses: dict[str, list[torch.Tensor]] = defaultdict(list)
    start = 0
    for row in rows:
        reads = found[start : start + len(row["reads"])]
        answers = found[start + len(reads) : start + len(reads) + len(row["answers"])]
        start += len(reads) + len(answers)
        if row["form"] in SCORED_BY:
            scores = _log_sums(reads, row["above"], column)
            if row["below"][0]:
                scores = scores - _log_sums(reads, row["below"], column)
            gains = torch.tensor(row["gains"], dtype=scores.dtype, device=scores.device)
            losses[SCORED_BY[row["form"]]].append(LOSSES[loss](scores, gains))
        if len(answers):
            losses["text"].append(text_loss(answers, row["choices"]))
    return {name: torch.stack(values).mean() for name, values in losses.items()}


def _log_sums(logits: torch.Tensor, tokens: Sequence[Sequence[int]], column: Mapping[int, int] | None) -> torch.Tensor:
    """``[n]`` of ``[n, t]``: at each place the chance of some tokens together, as a logarithm."""
    columns = tokens if column is None else [[column[token] for token in some] for some in tokens]
    return logits.gather(1, torch.tensor(columns, device=logits.device)).logsumexp(1)


class LengthGroups(Sampler[int]):
    """Rows in batches of similar length, and the batches in random order, a new one in each epoch.

    It depends only on the seed and the epoch, so that a run that resumes in the middle of an epoch continues with the
    rows that are left. (transformers' own draws from torch's common generator, which no checkpoint holds as it was when
    the epoch began.)

    Args:
        lengths: ``[rows]`` tokens of each row's longest sequence.
        batch: Rows in a batch.
        seed: Seed of the order.
    """

    _SHORT = 256  # shorter rows are of one length: packing leaves no padding to speak of
    _TOGETHER = 32  # batches whose rows are sorted together: fewer mix better, more need less padding

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self._lengths, self._batch, self._seed, self._epoch = lengths, batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Give the order of an epoch, counted from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Rows."""
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        """Rows in the epoch's order, the last batch being the one that may be short."""
        chance = random.Random(f"{self._seed} {self._epoch}")
        rows = chance.sample(range(len(self)), len(self))
        batches: list[list[int]] = []
        for group in _cut(rows, self._TOGETHER * self._batch):
            batches += _cut(sorted(group, key=lambda row: max(self._SHORT, self._lengths[row])), self._batch)
        chance.shuffle(batches)
        batches.sort(key=lambda batch: len(batch) < self._batch)  # a short one last: the others stay whole
        return itertools.chain.from_iterable(batches)


def _cut(rows: list[int], size: int) -> list[list[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


class RankingTrainer(SFTTrainer):  # type: ignore[misc]
    """`SFTTrainer` with ranking losses; its evaluation ranks the dev queries as serving does.

    Args:
        ranking: The losses and their weights.
        rank_dev: Ranks the dev queries with a saved adapter or model, and returns the metrics.
        options: Options of `SFTTrainer`.
    """

    def __init__(
        self, *, ranking: RankingArguments, rank_dev: Callable[[Path], dict[str, float]], **options: Any
    ) -> None:
        super().__init__(**options)
        self._ranking = ranking
        self.rank_dev = rank_dev
        self._states = States(self.accelerator.unwrap_model(self.model))
        self._sums: dict[str, list[float]] = defaultdict(list)
        self._tokens = [0, 0]  # without and with padding
        self._since = time.monotonic()

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """The weighted sum of the losses of a batch; see `batch_losses`."""
        rows = inputs["examples"]
        self._tokens[0] += sum(len(row["input_ids"]) for row in rows)
        self._tokens[1] += inputs["input_ids"].numel()
        losses = batch_losses(functools.partial(self._states.logits, model, inputs), rows, self._ranking.ranking_loss)
        for name, loss in losses.items():
            self._sums[f"loss_{name}"].append(loss.item())
        weights = {"text": self._ranking.text_weight}
        total = sum(weights.get(name, self._ranking.ranking_weight) * loss for name, loss in losses.items())
        return (total, None) if return_outputs else total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with each loss's mean, real tokens a second and the share of tokens that are real, of all processes."""
        if self._tokens[1] and "loss" in logs:
            every = gather_object([(self._sums, self._tokens)])
            for name in sorted({name for sums, _ in every for name in sums}):
                logs[name] = statistics.mean(itertools.chain.from_iterable(sums.get(name, ()) for sums, _ in every))
            real, padded = (sum(column) for column in zip(*(tokens for _, tokens in every), strict=True))
            logs["tokens_per_s"] = real / (time.monotonic() - self._since)
            logs["real_tokens"] = real / padded
            self._sums.clear()
            self._tokens, self._since = [0, 0], time.monotonic()
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        rows = self.train_dataset if train_dataset is None else train_dataset
        batch = self.args.train_batch_size * self.args.world_size
        return LengthGroups(rows["longest"], batch, self.args.seed)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Rank the dev queries with the adapter as it is now."""
        started = time.monotonic()
        metrics = ranked_metrics(self, self.rank_dev)
        self._since += time.monotonic() - started
        return metrics


def train_rows(
    loaded: Sequence[Dataset], names: Sequence[str], ranking: RankingArguments, tokenizer: Any, seed: int
) -> datasets.Dataset:
    """The training examples as a table, made once for the same data, settings and code.

    Raises:
        InputError: When no query teaches anything.
    """
    renderers = {form: Renderer(load_template(prompt), HubTokenizer(tokenizer)) for form, prompt in _prompts(ranking)}
    skipped = Skipped()

    learned = [shortened(dataset, ranking) for dataset in loaded]
    labels = [labels_of(name) if TRAINED in ranking.forms else {} for name in names]

    def rows() -> Iterator[dict[str, Any]]:
        for dataset, write_reason in zip(learned, reason_writers(names), strict=True):
            windows = draw_windows(dataset, "train", ranking.windows(), seed)
            examples = make_examples(
                windows,
                renderers,
                max_tokens=ranking.max_tokens,
                reasons=ranking.reasons,
                write_reason=write_reason,
                seed=seed,
                skipped=skipped,
            )
            for example in examples:
                yield example.to_row()
        for dataset, known in zip(learned, labels, strict=True):
            for example in make_understanding_examples(
                dataset, known, HubTokenizer(tokenizer), max_tokens=ranking.max_tokens, skipped=skipped
            ):
                yield example.to_row()

    settings = [
        vars(ranking),
        seed,
        [[query.query.query_id for query in dataset.split("train")] for dataset in learned],
        {form: renderer.template.digest for form, renderer in renderers.items()},
        {form: tuple(renderer.answer.identifiers) for form, renderer in renderers.items()},
        labels,
    ]
    folders = [Path(name).expanduser() for name in names if name != "sample-shop"]
    table = datasets.Dataset.from_generator(
        rows, cache_dir=str(home() / "examples"), fingerprint=examples_fingerprint(settings, folders)
    )
    for why, count in skipped.why.items():
        say(f"left out: {count} rows, {why}")
    if not len(table):
        raise InputError(
            "no query of these has candidates of two gains, or a label to learn, in its train split", field="datasets"
        )
    return table


def _prompts(ranking: RankingArguments) -> list[tuple[Form, str]]:
    return [(cast(Form, form), getattr(ranking, f"{form}_prompt")) for form in ranking.forms if form != TRAINED]


def adapter_config(model: ModelConfig, ranking: RankingArguments, layers: int, steps: int) -> LoraConfig | None:
    """What PEFT adds to the model; None if the model itself is trained.

    Args:
        model: LoRA's options; also DoRA (``use_dora``) and rsLoRA (``use_rslora``).
        ranking: Whether AdaLoRA is used, and in which layers.
        layers: The model's layers.
        steps: Steps of the training.
    """
    config: Any = get_peft_config(model)
    if config is None:
        return None
    if ranking.lora_top_layers is not None:
        config.layers_to_transform = list(range(max(0, layers - ranking.lora_top_layers), layers))
    if not ranking.adalora:
        return cast(LoraConfig, config)
    values = {
        key: value
        for key, value in config.to_dict().items()
        if key in ("lora_alpha", "lora_dropout", "target_modules", "layers_to_transform", "modules_to_save")
    }
    return AdaLoraConfig(
        task_type="CAUSAL_LM",
        target_r=config.r,
        init_r=config.r * 3 // 2,
        tinit=steps // 10,
        tfinal=steps // 2,
        total_step=steps,
        **values,
    )


def make_trainer(
    ranking: RankingArguments, training: SFTConfig, model: ModelConfig
) -> tuple[RankingTrainer, Manifest | None]:
    """A trainer with everything it needs, and the manifest of the adapter that it continues, if there is one."""
    if ranking.forms == [TRAINED] and training.metric_for_best_model == "ndcg@10":
        training.metric_for_best_model = METRIC
    name = model_name(model)
    folder = resolve(name)
    loaded, dev, requests = load_data(ranking, training.seed)
    tokenizer = load_tokenizer(folder, trust_remote_code=getattr(training, "trust_remote_code", False))
    with training.main_process_first(desc="training examples"):
        table = train_rows(loaded, ranking.datasets, ranking, tokenizer, training.seed)
    say(f"{len(table)} rows, {sum(table['length']):,} tokens")
    trained = load_model(folder, training, model)
    check_tokens(tokenizer, trained.get_input_embeddings().weight.shape[0], folder)
    templates = {form: load_template(prompt) for form, prompt in _prompts(ranking)}
    start = None
    if ranking.adapter:
        trained, start = load_start(ranking.adapter, trained, name, folder, templates)
    layers = trained.config.get_text_config().num_hidden_layers
    batch = training.train_batch_size * training.world_size * training.gradient_accumulation_steps
    steps = training.max_steps if training.max_steps > 0 else int(training.num_train_epochs * len(table) / batch)
    training.dataset_kwargs = {"skip_prepare_dataset": True}
    training.remove_unused_columns = False
    read = None
    if TRAINED in ranking.forms:
        read = dev_reader(dev, labels_of(ranking.dev or ranking.datasets[0]), ranking.dev_queries)
    rank_dev = dev_ranker(dev, requests, name, {SCORED_BY[form]: prompt for form, prompt in _prompts(ranking)}, read)
    trainer = RankingTrainer(
        ranking=ranking,
        rank_dev=rank_dev,
        model=trained,
        args=training,
        train_dataset=table,
        eval_dataset=table.select([0]),  # TRL only needs it to exist: the dev queries are ranked instead
        processing_class=tokenizer,
        data_collator=collate,
        peft_config=None if ranking.adapter else adapter_config(model, ranking, layers, steps),
    )
    if not keeps_apart(trainer.model):
        say(f"{name} does not keep sequences of one row apart: each gets a row of its own, with padding")
        trainer.data_collator = functools.partial(collate, packed=False)
    quicken(trainer.model)
    if ranking.compile_layers:
        compile_layers(trainer.accelerator.unwrap_model(trainer.model))
    return trainer, start


def train(ranking: RankingArguments, training: SFTConfig, model: ModelConfig) -> Manifest | None:
    """Train, keep the best adapter, and report how good it is.

    Returns:
        The manifest of ``output_dir/adapter``; None in a process that is not the first of several.
    """
    trainer, start = make_trainer(ranking, training, model)
    out = Path(training.output_dir or "trainer_output")
    name, rows = model_name(model), trainer.train_dataset._fingerprint
    trainer.train(resume_from_checkpoint=checkpoint_to_go_on_from(out, ranking, training, model, rows))
    prompts = learned_prompts(_prompts(ranking), trainer.processing_class)
    learned: dict[Any, TrainedPrompt] = {**prompts, **learned_words(ranking.forms)}
    data = data_of(ranking, rows, start)
    return save_adapter(trainer, out / "adapter", name, learned, data, trainer.rank_dev)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; see the module's text.

    Returns:
        The exit status.
    """
    return exit_status(lambda: report(train(*parse(arguments, "python -m finetune.sft"))))


if __name__ == "__main__":
    sys.exit(main())
