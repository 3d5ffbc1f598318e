"""Compare training speed with a bare PyTorch loop: ``python -m finetune.bench --config finetune/configs/NAME.yaml``.

::

    python -m finetune.bench --config X.yaml [--steps 8] [--rounds 3]

Four ways to train the same adapter on the same examples, in turn, since a machine's speed drifts: ``trainer`` is
`finetune.sft`; ``padded`` the same with a row for each sequence; ``bare`` a loop of PyTorch over PEFT's model, with the
head computed where a loss reads it; ``untuned`` the same loop with a row for each sequence and the head computed
over whole rows, as a naive training does. All compute the losses of `finetune.sft` and step AdamW. JSON on stdout: real
tokens a second of each, and ratios round by round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from trl import ModelConfig, SFTConfig

from finetune.arguments import RankingArguments, parse
from finetune.packing import collate
from finetune.sft import States, adapter_config, batch_losses, make_trainer
from finetune.training import load_model, model_name
from genrank.experiment.program import exit_status, say
from genrank.models.store import resolve

Batch = Mapping[str, Any]


def measure(
    ranking: RankingArguments, training: SFTConfig, model: ModelConfig, *, steps: int, rounds: int
) -> dict[str, Any]:
    """Tokens a second of each way, and the trainer's relative to the others'.

    Args:
        ranking: Options of `finetune.sft`.
        training: The same; nothing is saved, and no query is ranked.
        model: The same.
        steps: Steps of each measurement, after one warm-up step.
        rounds: Number of measurements of each way.
    """
    training.eval_strategy = training.save_strategy = "no"
    training.load_best_model_at_end = False
    trainer, _ = make_trainer(ranking, training, model)
    batches = list(itertools.islice(trainer.get_train_dataloader(), steps + 1))
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1

    def step(batch: Batch) -> None:
        trainer.training_step(trainer.model, dict(batch))
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    def padded(batch: Batch) -> None:
        rows = collate(batch["examples"], packed=False)
        step({name: value.to(trainer.model.device) if name != "examples" else value for name, value in rows.items()})

    ways: dict[str, Callable[[Batch], None]] = {
        "trainer": step,
        "padded": padded,
        "bare": _bare(ranking, training, model, whole_head=False),
        "untuned": _bare(ranking, training, model, whole_head=True),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds):
        for name, way in ways.items():
            say(f"round {round_ + 1} of {rounds}: {name}")
            trainer.model.train()
            speeds[name].append(_tokens_per_second(way, batches))
    ratios = {
        name: [own / other for own, other in zip(speeds["trainer"], speeds[name], strict=True)]
        for name in ways.keys() - {"trainer"}
    }
    return {
        "tokens_per_s": {name: statistics.median(values) for name, values in speeds.items()},
        "trainer_to": {name: {"median": statistics.median(v), "all": v} for name, v in ratios.items()},
        "batches": [list(batch["input_ids"].shape) for batch in batches[1:]],
    }


def _bare(
    ranking: RankingArguments, training: SFTConfig, model: ModelConfig, *, whole_head: bool
) -> Callable[[Batch], None]:
    trained = load_model(resolve(model_name(model)), training, model)
    config = adapter_config(model, ranking, trained.config.get_text_config().num_hidden_layers, 100)
    if config is not None:
        trained = get_peft_model(trained, config)
    trained.train()
    states = None if whole_head else States(trained)
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=training.learning_rate)

    def step(batch: Batch) -> None:
        examples = batch["examples"]
        given = batch if states is not None else collate(examples, packed=False)

        def logits(tokens: Sequence[int] | None) -> torch.Tensor:
            if states is not None:
                return states.logits(trained, given, tokens)
            whole: torch.Tensor = trained(input_ids=given["input_ids"], use_cache=False).logits.float()
            found = whole[tuple(given["where"].T)]
            return found if tokens is None else found[:, tokens]

        losses = batch_losses(logits, examples, ranking.ranking_loss)
        total: Any = torch.stack(list(losses.values())).sum()
        total.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), training.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _tokens_per_second(step: Callable[[Batch], None], batches: Sequence[Batch]) -> float:
    step(batches[0])
    started = time.perf_counter()
    for batch in batches[1:]:
        step(batch)
    seconds = time.perf_counter() - started
    return sum(len(row["input_ids"]) for batch in batches[1:] for row in batch["examples"]) / seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; see the module's text.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        "python -m finetune.bench", description="Compare the speed of training with a bare loop."
    )
    parser.add_argument("--config", type=Path, required=True, help="a recipe of finetune.sft")
    parser.add_argument("--steps", type=int, default=8, help="steps of each measurement (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each way (%(default)s)")
    options, others = parser.parse_known_args(arguments)

    def body() -> None:
        with tempfile.TemporaryDirectory() as out:
            given = ["--config", str(options.config), *others, "--output_dir", out]
            found = measure(*parse(given, "python -m finetune.bench"), steps=options.steps, rounds=options.rounds)
        print(json.dumps(found))

    return exit_status(body)


if __name__ == "__main__":
    sys.exit(main())
