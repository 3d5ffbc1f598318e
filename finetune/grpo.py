"""Reward a model's own answers: ``python -m finetune.grpo --config finetune/configs/NAME.yaml [--OPTION VALUE ...]``.

TRL's `GRPOTrainer` (arXiv 2402.03300) with PEFT, from an adapter of `finetune.sft` or a new one. Prompts are windows of
dataset folders rendered as in serving; for each the model writes several answers, and learns from those that
`finetune.rewards` scores above the others. An order is sampled under the same mask as in serving, so that the model
only chooses, and only learns to choose, among the candidates that are left; with ``masked: false`` it is free text. A
share of the prompts goes on to the reason for the best listing, in the conversation that ranked, as in serving.

Options are those of `finetune.arguments.GrpoArguments`, of ``trl.GRPOConfig`` and of ``trl.ModelConfig``; the
configuration file holds the same names. A run that was killed continues from its last complete checkpoint in
``output_dir`` when it is started again. The best adapter by dev nDCG@10 of listwise decoding ends up in
``output_dir/adapter`` with its manifest. ``trainer_state.json`` of a checkpoint holds the curves: ``reward``,
``rewards/ndcg/mean`` ... and ``eval_ndcg@10_listwise`` ... by step.
"""

from __future__ import annotations

import functools
import math
import random
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import datasets
import torch
from torch.utils.data import Sampler
from transformers import LogitsProcessor, TrainerCallback

from finetune.arguments import GrpoArguments, parse_grpo
from finetune.checkpoints import checkpoint_to_go_on_from
from finetune.data import Skipped
from finetune.quick_lora import quicken
from finetune.rewards import diversity_reward, format_reward, grounding_reward, ndcg_reward
from finetune.training import (
    data_of,
    dev_ranker,
    learned_prompts,
    load_data,
    load_model,
    load_start,
    model_name,
    other_prompts,
    ranked_metrics,
    report,
    save_adapter,
    shortened,
)
from finetune.windows import TrainingWindow, draw_windows
from genrank.adapters import Manifest
from genrank.engines.loading import end_tokens
from genrank.engines.mask import PermutationMask
from genrank.engines.tokenizer import HubTokenizer, check_tokens, load_tokenizer
from genrank.errors import BudgetError, InputError
from genrank.experiment.program import exit_status, say
from genrank.files import fingerprint
from genrank.models.store import resolve
from genrank.prompting.renderer import Renderer
from genrank.prompting.template import load_template
from genrank.reasons.grounding import Facts
from genrank.types import Decoding

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TRL loads vLLM and torch's compiler, and warns about their versions
    from trl import GRPOConfig, GRPOTrainer, ModelConfig
    from trl.trainer.utils import RepeatSampler, get_peft_config

MEASURED_BY: tuple[Decoding, ...] = ("listwise", "first-token")
"""Decodings by which the dev queries are ranked during training; the first chooses the best adapter."""


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt, and what its answers are measured against.

    Attributes:
        ids: ``[tokens]`` of the prompt.
        window: The window that it shows.
        reason_for: Place of the candidate whose reason is asked for, 0-based; None if the order is asked for.
    """

    ids: tuple[int, ...]
    window: TrainingWindow
    reason_for: int | None = None


def make_questions(
    windows: Iterable[TrainingWindow],
    renderer: Renderer,
    *,
    max_tokens: int,
    reasons: float = 0.0,
    seed: int = 0,
    skipped: Skipped | None = None,
) -> Iterator[Question]:
    """One prompt for each window: for the order, or for the reason for one of the best listings.

    Args:
        windows: The windows to ask about.
        renderer: The renderer of serving.
        max_tokens: Token limit of a prompt. A window that does not fit is cut as in serving.
        reasons: Chance of asking for a reason.
        seed: Seed of the choice of windows that ask for a reason, and of which of the best listings it is for.
        skipped: Counts the windows that gave no prompt.
    """
    for number, window in enumerate(windows):
        chance = random.Random(f"{seed} {number}")
        order = sorted(range(len(window.candidates)), key=lambda place: (-window.gains[place], chance.random()))
        asks_reason = chance.random() < reasons and window.gains[order[0]] > 0
        try:
            prepared = renderer.prepare(window.query, window.candidates, window.history, window.intent)
            if asks_reason:
                yield Question(prepared.reason(order[0], max_tokens=max_tokens).ids, window, order[0])
            else:
                prompt = prepared.window(range(len(order)), max_tokens=max_tokens, decoding="listwise")
                yield Question(prompt.ids, window)
        except BudgetError:
            if skipped is not None:
                skipped.count(f"{'reason' if asks_reason else 'order'}: more than {max_tokens} tokens")


class AnswerForm:
    """How a template's answers are written: their tokens, and the names that are read out of their text.

    Args:
        renderer: The template's renderer.
        ends: Tokens that end the model's answers.
    """

    def __init__(self, renderer: Renderer, ends: Iterable[int]) -> None:
        template, tokenizer = renderer.template, renderer.tokenizer
        self._tokens = renderer.answer
        self._names = [tokenizer.decode([token]).strip() for token in self._tokens.identifiers]
        self._open = template.answer_open
        (close,) = tokenizer.encode([template.answer_close])
        chat = tokenizer.frame("")[1]
        end = tokenizer.turn()[:1] if chat else renderer.reason_ends[:1]
        self.closing = (*close.ids, *end)
        """Tokens after the last identifier."""
        self.ends = sorted({*ends, *end, *renderer.reason_ends})
        """Tokens that end an answer, line breaks among them: they end a reason in serving."""
        self.marks = template.answer_open + template.answer_between + template.answer_close

    def names(self, n: int) -> list[str]:
        """Names of the first `n` candidates."""
        return self._names[:n]

    def written(self, completion: str) -> str:
        """An order's whole text: the prompt holds its beginning."""
        return self._open + completion

    def mask(self, n: int) -> PermutationMask:
        """The mask for `n` candidates."""
        return PermutationMask(self._tokens.identifiers[:n], self._tokens.between)

    def length(self, n: int) -> int:
        """Tokens of an order of `n` candidates, from its first identifier to the end of the answer."""
        return self._ordered(n) + len(self.closing)

    def choices(self, n: int, length: int) -> list[int]:
        """``[length]``: 1 where a token of an order is the model's own choice, 0 where the mask forces it."""
        stride = 1 + len(self._tokens.between)
        return [int(at % stride == 0 and at < stride * (n - 1)) for at in range(length)]

    def allowed(self, n: int, written: Sequence[int]) -> tuple[int, ...]:
        """The tokens that may follow; none after the end of the answer."""
        done = len(written) - self._ordered(n)
        return self.mask(n).allowed(written) if done < 0 else self.closing[done : done + 1]

    def _ordered(self, n: int) -> int:
        return n + (n - 1) * len(self._tokens.between)


class OrderMask(LogitsProcessor):
    """Restricts rows that ask for an order to valid orders, as in serving; other rows are free.

    Args:
        form: How the template's answers are written.
        sizes: ``[b]`` candidates of each row's window; None for a free row.
    """

    def __init__(self, form: AnswerForm, sizes: Sequence[int | None]) -> None:
        self._form = form
        self._sizes = sizes
        self._start: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``[b, vocabulary]`` scores, minus infinity for tokens that may not follow."""
        if self._start is None:
            self._start = input_ids.shape[1]
        for row, (size, ids) in enumerate(zip(self._sizes, input_ids[:, self._start :].tolist(), strict=True)):
            if size is not None and (allowed := list(self._form.allowed(size, ids))):
                kept = scores[row, allowed]
                scores[row] = -math.inf
                scores[row, allowed] = kept
        return scores


class EpochRepeats(RepeatSampler):  # type: ignore[misc]
    """`RepeatSampler` whose order depends only on seed and epoch, so that a resumed run continues with the rest."""

    def set_epoch(self, epoch: int) -> None:
        """Give the order of an epoch, counted from 0."""
        if self.shuffle:
            self.generator.manual_seed((self.seed or 0) + epoch * 1_000_003)


class RewardTrainer(GRPOTrainer):  # type: ignore[misc]
    """`GRPOTrainer` on prompts of `genrank.prompting`; its evaluation ranks the dev queries as serving does.

    Args:
        questions: The questions, by the column ``number`` of the training rows.
        form: How the template's answers are written.
        masked: Whether orders are sampled under the mask.
        rank_dev: Ranks the dev queries with a saved adapter or model, and returns the metrics.
        options: Options of `GRPOTrainer`.
    """

    def __init__(
        self,
        *,
        questions: Sequence[Question],
        form: AnswerForm,
        masked: bool,
        rank_dev: Callable[[Path], dict[str, float]],
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.eos_token_ids = form.ends
        self._questions = questions
        self._form = form
        self._masked = masked
        self._rank_dev = rank_dev
        self._asked: list[Question] = []
        self.add_callback(_StepsDone(self))

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._asked = [self._questions[row["number"]] for row in inputs]
        return cast(dict[str, Any], super()._generate_and_score_completions(inputs))

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        # the renderer tokenises part by part and treats special tokens in data as ordinary text: the prompt's text,
        # tokenised again, would give other tokens than those that are served
        return [list(question.ids) for question in self._asked[: len(prompts)]], None, {}

    def _sizes(self) -> list[int | None]:
        """Candidates of each row that is sampled under the mask."""
        masked = [self._masked and question.reason_for is None for question in self._asked]
        return [len(q.window.candidates) if under else None for q, under in zip(self._asked, masked, strict=True)]

    def _generate_single_turn(self, *inputs: Any, **options: Any) -> Any:
        if not self._masked:
            return super()._generate_single_turn(*inputs, **options)
        # `generate` takes a mask only as an argument, and TRL passes none
        model = self.accelerator.unwrap_model(self.model)
        model.generate = functools.partial(model.generate, logits_processor=[OrderMask(self._form, self._sizes())])
        try:
            return super()._generate_single_turn(*inputs, **options)
        finally:
            del model.generate

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        ids, written, own, *rest = super()._generate(prompts)
        if self._masked:  # what the mask forces is no choice of the model's; TRL calls such tokens a tool's
            own = [
                [1] * len(row) if size is None else self._form.choices(size, len(row))
                for size, row in zip(self._sizes(), written, strict=True)
            ]
        return (ids, written, own, *rest)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **options: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        if input_ids.device.type != "cpu" or options.get("compute_aux_loss"):
            return cast(
                tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None],
                super()._get_per_token_logps_and_entropies(
                    model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **options
                ),
            )
        # on the CPU, TRL computes the head for the prompts too, of which nothing is learned
        logps, entropies = [], []
        size = batch_size or len(input_ids)
        for start in range(0, len(input_ids), size):
            ids, mask = input_ids[start : start + size], attention_mask[start : start + size]
            with self.accelerator.autocast():
                out = model(input_ids=ids, attention_mask=mask, logits_to_keep=logits_to_keep + 1, use_cache=False)
            found = (out.logits[:, :-1].float() / self.temperature).log_softmax(-1)
            logps.append(found.gather(-1, ids[:, -logits_to_keep:, None]).squeeze(-1))
            if compute_entropy:
                with torch.no_grad():
                    entropies.append(-(found.exp() * found).sum(-1))
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        return EpochRepeats(
            data_source=self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
        )

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        # the reference is the adapter that training starts from; transformers, resuming from a checkpoint that holds
        # more than one adapter, would leave out the one that was trained
        shutil.rmtree(Path(output_dir or self.args.output_dir) / "ref", ignore_errors=True)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Rank the dev queries with the adapter as it is now."""
        return ranked_metrics(self, self._rank_dev)


class _StepsDone(TrainerCallback):
    """Lets a resumed run count its steps from where it stopped: TRL uses them to decide when to sample again."""

    def __init__(self, trainer: RewardTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        self._trainer._step = state.global_step * args.gradient_accumulation_steps


def reward_functions(
    grpo: GrpoArguments, questions: Sequence[Question], form: AnswerForm
) -> tuple[list[Callable[..., list[float | None]]], list[float]]:
    """The rewards whose weight is not 0, as TRL calls them, and their weights.

    One that does not apply to a prompt is None there.
    """

    def of_order(
        name: str, score: Callable[[str, list[str], TrainingWindow], float]
    ) -> Callable[..., list[float | None]]:
        def one(question: Question, text: str) -> float | None:
            if question.reason_for is not None:
                return None
            names = form.names(len(question.window.candidates))
            return score(form.written(text), names, question.window)

        return named(name, one)

    def named(name: str, one: Callable[[Question, str], float | None]) -> Callable[..., list[float | None]]:
        def reward(completions: Sequence[str], number: Sequence[int], **_: Any) -> list[float | None]:
            return [one(questions[i], text) for i, text in zip(number, completions, strict=True)]

        reward.__name__ = name  # the name in TRL's logs
        return reward

    def grounding(question: Question, text: str) -> float | None:
        if question.reason_for is None:
            return None
        listings = [candidate.listing for candidate in question.window.candidates]
        listing = listings.pop(question.reason_for)
        return grounding_reward(text, Facts(question.window.query, listing, question.window.history, listings))

    def brands(window: TrainingWindow) -> list[str]:
        return [candidate.listing.brand for candidate in window.candidates]

    known: dict[str, tuple[float, Callable[..., list[float | None]]]] = {
        "ndcg": (grpo.ndcg_weight, of_order("ndcg", lambda text, names, w: ndcg_reward(text, names, w.gains))),
        "format": (
            grpo.format_weight,
            of_order("format", lambda text, names, _: format_reward(text, names, form.marks)),
        ),
        "diversity": (
            grpo.diversity_weight,
            of_order(
                "diversity", lambda text, names, w: diversity_reward(text, names, brands(w), grpo.diversity_depth)
            ),
        ),
        "grounding": (grpo.grounding_weight if grpo.reasons else 0.0, named("grounding", grounding)),
    }
    used = [(weight, reward) for weight, reward in known.values() if weight]
    return [reward for _, reward in used], [weight for weight, _ in used]


def _check_room(grpo: GrpoArguments, training: GRPOConfig, form: AnswerForm, questions: Sequence[Question]) -> None:
    if not questions:
        raise InputError("no query of these has candidates of two gains in its train split", field="datasets")
    width = max(len(question.window.candidates) for question in questions)
    if form.length(width) > training.max_completion_length:
        raise InputError(
            f"must be at least {form.length(width)} for windows of {width} candidates, got "
            f"{training.max_completion_length}; or set a lower most_candidates",
            field="max_completion_length",
        )
    together = training.generation_batch_size // training.num_generations
    if len(questions) < together:
        raise InputError(
            f"must be at most {len(questions) * training.num_generations}: there are {len(questions)} prompts, and "
            f"{training.num_generations} answers to each; got {training.generation_batch_size}",
            field="generation_batch_size",
        )
    if grpo.masked and training.use_vllm:
        raise InputError("must be false with use_vllm, which samples without the mask of this program", field="masked")


def train(grpo: GrpoArguments, training: GRPOConfig, model: ModelConfig) -> Manifest | None:
    """Train, keep the best adapter, and report how good it is.

    Returns:
        The manifest of ``output_dir/adapter``; None in a process that is not the first of several.
    """
    if training.reward_weights is not None:
        raise InputError("must be left out: set ndcg_weight, format_weight ... instead", field="reward_weights")
    name = model_name(model)
    folder = resolve(name)
    loaded, dev, requests = load_data(grpo, training.seed)
    tokenizer = load_tokenizer(folder, trust_remote_code=getattr(training, "trust_remote_code", False))
    renderer = Renderer(load_template(grpo.listwise_prompt), HubTokenizer(tokenizer))
    room = grpo.max_tokens - training.max_completion_length
    if room < 1:
        raise InputError(
            f"must be more than max_completion_length, {training.max_completion_length}, got {grpo.max_tokens}",
            field="max_tokens",
        )
    skipped = Skipped()
    questions: list[Question] = []
    for dataset in loaded:
        windows = draw_windows(shortened(dataset, grpo), "train", grpo.windows(), training.seed)
        questions += make_questions(
            windows, renderer, max_tokens=room, reasons=grpo.reasons, seed=training.seed, skipped=skipped
        )
    for why, count in skipped.why.items():
        say(f"left out: {count} prompts, {why}")
    policy = load_model(folder, training, model)
    check_tokens(tokenizer, policy.get_input_embeddings().weight.shape[0], folder)
    form = AnswerForm(renderer, end_tokens(policy, tokenizer))
    _check_room(grpo, training, form, questions)
    say(f"{len(questions)} prompts, {sum(len(question.ids) for question in questions):,} tokens")
    start = None
    if grpo.adapter:
        policy, start = load_start(grpo.adapter, policy, name, folder, {"listwise": renderer.template})
    functions, training.reward_weights = reward_functions(grpo, questions, form)
    training.generation_kwargs = {**(training.generation_kwargs or {}), "eos_token_id": form.ends}
    out = Path(training.output_dir or "trainer_output")
    rows = fingerprint([list(question.ids) for question in questions])
    checkpoint = checkpoint_to_go_on_from(out, grpo, training, model, rows)
    training.eval_on_start = training.eval_on_start and checkpoint is None  # a resumed run has done so
    texts = tokenizer.batch_decode([list(question.ids) for question in questions])
    table = datasets.Dataset.from_dict({"prompt": texts, "number": list(range(len(questions)))})
    prompts = dict.fromkeys(MEASURED_BY, grpo.listwise_prompt)
    trainer = RewardTrainer(
        questions=questions,
        form=form,
        masked=grpo.masked,
        rank_dev=dev_ranker(dev, requests, name, prompts),
        model=policy,
        reward_funcs=functions,
        args=training,
        train_dataset=table,
        eval_dataset=table.select([0]),  # TRL only needs it to exist: the dev queries are ranked instead
        processing_class=tokenizer,
        peft_config=None if grpo.adapter else get_peft_config(model),
    )
    if not training.beta:
        quicken(trainer.model)  # the reference needs layers whose adapters can be swapped or switched off
    trainer.train(resume_from_checkpoint=checkpoint)
    before = [log["eval_ndcg@10"] for log in trainer.state.log_history if log["step"] == 0 and "eval_ndcg@10" in log]
    if before and (trainer.state.best_metric or 0.0) < before[0]:
        say(f"no step ranks the dev queries better than the start, nDCG@10 {before[0]:.4f}")
    others = other_prompts(start, MEASURED_BY)
    measured = dev_ranker(dev, requests, name, prompts | {key: prompt.name for key, prompt in others.items()})
    data = data_of(grpo, rows, start)
    learned = learned_prompts([("listwise", grpo.listwise_prompt)], tokenizer)
    return save_adapter(trainer, out / "adapter", name, {**others, **learned}, data, measured)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; see the module's text.

    Returns:
        The exit status.
    """
    return exit_status(lambda: report(train(*parse_grpo(arguments, "python -m finetune.grpo"))))


if __name__ == "__main__":
    sys.exit(main())
