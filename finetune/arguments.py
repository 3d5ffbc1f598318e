"""The options of the training programs, in addition to TRL's."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import yaml

from finetune.windows import WindowOptions
from genrank.engines.loading import native_dtype
from genrank.errors import ConfigError, InputError
from genrank.experiment.config import read_yaml
from genrank.models.registry import DEFAULT_MODEL

if TYPE_CHECKING:
    from trl import GRPOConfig, ModelConfig, SFTConfig

FORMS = ("pointwise", "inline", "listwise")
ALL_FORMS = (*FORMS, "understanding")
LANGUAGES = ("en", "zh", "other")


def _option(default: Any, words: str) -> Any:
    """An option with its help; each set of arguments gets its own list."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": words})
    return field(default=default, metadata={"help": words})


@dataclass
class DataArguments:
    """What a model learns from, and how it is evaluated during training; shared by all trainings.

    Raises:
        InputError: When an option is wrong; the message names it.
    """

    datasets: list[str] = _option(
        ["sample-shop"], "dataset folders, BEIR folders, ir_datasets:ID or sample-shop; their train queries are learned"
    )
    measured: list[str] = _option([], "more datasets whose dev and test queries must not be learned")
    leaks: Literal["error", "drop"] = _option(
        "error", "train queries that are measured too: an error, or dropped from training"
    )
    adapter: str | None = _option(None, "folder of an adapter to continue training (a new LoRA)")
    dev: str | None = _option(None, "dataset whose dev queries are ranked during training (the first of datasets)")
    dev_queries: int | None = _option(None, "maximum number of dev queries, the first ones (all)")
    dev_candidates: int = _option(20, "candidates of each dev query, the first stage's best")
    listwise_prompt: str = _option("listwise", "prompt template: a name or a file")
    max_tokens: int = _option(4096, "token limit of one sequence; longer ones are cut as in serving")
    windows_per_query: int = _option(1, "windows drawn of each query")
    least_candidates: int = _option(2, "candidates in the smallest window")
    most_candidates: int = _option(20, "candidates in the largest")
    hard_negatives: int = _option(0, "maximum number of unjudged listings of the first stage in a window")
    random_negatives: int = _option(0, "maximum number of listings of other queries in a window")
    shuffle: bool = _option(True, "candidates in random order, not the first stage's")
    best_first: float = _option(0.0, "chance that candidates come best first, as a cascade's second stage sees them")
    drop_fields: float = _option(0.0, "chance that a field is left out of all listings of a window")
    query_noise: float = _option(0.0, "chance that a query is varied: case, plural, word order, a typo, a synonym")
    drop_history: float = _option(0.0, "chance that a window has no history")
    cut_history: float = _option(0.0, "chance that a history is cut to its latest interactions")
    random_history: float = _option(0.0, "chance that a query without a history gets one of a few random listings")
    drop_intent: float = _option(0.0, "chance that a window has no intent, where the queries have some")
    most_windows: int | None = _option(
        None, "maximum number of windows from one dataset; further queries are left out (all)"
    )
    languages: list[str] = _option([], "languages of the train queries that are learned: en, zh, other (all)")
    with_gain: bool = _option(False, "only queries one of whose candidates of the first stage has a gain, in dev too")
    share: float = _option(1.0, "share of the train queries, for learning curves")

    def __post_init__(self) -> None:
        """Check the options that can be checked by themselves."""
        self._check_filled("datasets")
        for one in self.languages:
            if one not in LANGUAGES:
                raise InputError(f"must be of {', '.join(LANGUAGES)}, got {one!r}", field="languages")
        if not 0 < self.share <= 1:
            raise InputError(f"must be above 0 and at most 1, got {self.share}", field="share")
        self._check_counts("max_tokens", "dev_queries", "dev_candidates", "most_windows")

    def _check_filled(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name):
                raise InputError("must not be empty", field=name)

    def _check_counts(self, *names: str) -> None:
        for name in names:
            if (number := getattr(self, name)) is not None and number < 1:
                raise InputError(f"must be at least 1, got {number}", field=name)

    def _check_chances(self, *names: str) -> None:
        for name in names:
            if not 0 <= (chance := getattr(self, name)) <= 1:
                raise InputError(f"must be a chance, 0 to 1, got {chance}", field=name)

    def _check_weights(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name) >= 0:
                raise InputError(f"must not be negative, got {getattr(self, name)}", field=name)

    def windows(self) -> WindowOptions:
        """How windows are drawn."""
        names = {"per_query": "windows_per_query", "least": "least_candidates", "most": "most_candidates"}
        values = {one.name: getattr(self, names.get(one.name, one.name)) for one in fields(WindowOptions)}
        try:
            return WindowOptions(**values)
        except InputError as error:
            wrong = names.get(error.field, error.field)
            raise InputError(str(error).removeprefix(f"{error.field}: "), field=wrong) from None


@dataclass
class RankingArguments(DataArguments):
    """Options of `finetune.sft`, in addition to those that all trainings share.

    Raises:
        InputError: When an option is wrong; the message names it.
    """

    forms: list[str] = _option(
        [*FORMS], "prompts that are learned: pointwise, inline, listwise (and first-token), understanding"
    )
    pointwise_prompt: str = _option("pointwise-lean", "prompt template: a name or a file")
    inline_prompt: str = _option("inline", "prompt template: a name or a file")
    reasons: float = _option(0.0, "chance that the reason for one of a window's best listings is learned too")
    ranking_loss: Literal["ranknet", "listnet", "lambda"] = _option("ranknet", "loss of the scores")
    ranking_weight: float = _option(1.0, "weight of the ranking loss; 0: only text is learned")
    text_weight: float = _option(
        0.2, "weight of the loss of texts (permutations, reasons, what queries mean); 0: only scores are learned"
    )
    lora_top_layers: int | None = _option(None, "number of upper layers that get adapters (all)")
    compile_layers: bool = _option(False, "PyTorch compiles the model's layers: faster steps after a slow first one")
    adalora: bool = _option(False, "AdaLoRA (arXiv 2303.10512) instead of LoRA; starts at 1.5 times lora_r")

    def __post_init__(self) -> None:
        """Check the options that can be checked by themselves."""
        super().__post_init__()
        self._check_filled("forms")
        for form in self.forms:
            if form not in ALL_FORMS or self.forms.count(form) > 1:
                raise InputError(f"must be of {', '.join(ALL_FORMS)}, each once, got {self.forms}", field="forms")
        self._check_weights("ranking_weight", "text_weight")
        if not self.ranking_weight + self.text_weight:
            raise InputError("must not be 0 as ranking_weight is: nothing would be learned", field="text_weight")
        if not {"listwise", "understanding"} & set(self.forms) and not self.ranking_weight:
            raise InputError("must not be 0 where listwise is not learned", field="ranking_weight")
        if "understanding" in self.forms and not self.text_weight:
            raise InputError("must not be 0 where understanding is learned", field="text_weight")
        if self.forms == ["understanding"] and self.reasons:
            raise InputError("must be 0 where only understanding is learned", field="reasons")
        self._check_chances("reasons")
        self._check_counts("lora_top_layers")


@dataclass
class GrpoArguments(DataArguments):
    """Options of `finetune.grpo`, in addition to those that all trainings share.

    Raises:
        InputError: When an option is wrong; the message names it.
    """

    masked: bool = _option(True, "orders are sampled under the mask of serving; False: as free text")
    reasons: float = _option(0.0, "share of the prompts that ask for the reason for one of the best listings")
    ndcg_weight: float = _option(1.0, "weight of the order's nDCG@10; 0 leaves a reward out")
    format_weight: float = _option(0.0, "weight of an order that needs no repair; under the mask none does")
    diversity_weight: float = _option(0.0, "weight of the brands among the first diversity_depth")
    diversity_depth: int = _option(3, "how deep brands are counted")
    grounding_weight: float = _option(1.0, "weight of a reason whose claims are in the listing or the history")

    def __post_init__(self) -> None:
        """Check the options that can be checked by themselves."""
        super().__post_init__()
        self._check_chances("reasons")
        self._check_counts("diversity_depth")
        orders = ("ndcg_weight", "format_weight", "diversity_weight")
        self._check_weights(*orders, "grounding_weight")
        if self.reasons < 1 and not any(getattr(self, name) for name in orders):
            raise InputError("must not be 0 as format_weight and diversity_weight are", field="ndcg_weight")
        if self.reasons and not self.grounding_weight:
            raise InputError("must not be 0 where reasons are asked for; or set reasons: 0", field="grounding_weight")


def _defaults() -> dict[str, Any]:
    """Defaults that replace TRL's own in all trainings."""
    gpu = torch.cuda.is_available()
    return {
        "model_name_or_path": DEFAULT_MODEL,
        "use_peft": True,
        "dtype": "auto",
        "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "use_cpu": not gpu,
        "bf16": native_dtype(torch.device("cuda" if gpu else "cpu")) == torch.bfloat16,
        "gradient_checkpointing": gpu,
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "load_best_model_at_end": True,
        "metric_for_best_model": "ndcg@10",
        "greater_is_better": True,
        "report_to": "none",
    }


_GRPO_DEFAULTS = {
    "remove_unused_columns": False,
    "disable_dropout": True,  # sampling and learning must use the same policy
    "num_generations": 4,
    "num_generations_eval": 1,  # the dev queries are ranked: nothing is sampled for them
    "max_completion_length": 64,
    "eval_on_start": True,  # measures the adapter that training starts from
    "learning_rate": 1e-5,
}


def parse(arguments: Sequence[str] | None, program: str) -> tuple[RankingArguments, SFTConfig, ModelConfig]:
    """Options of `finetune.sft`; the command line overrides the file that ``--config`` names.

    Raises:
        ConfigError: When the file cannot be read, or an option is unknown or wrong.
    """
    from trl import ModelConfig, SFTConfig

    kinds = (RankingArguments, SFTConfig, ModelConfig)
    found = _parse(arguments, program, kinds, {"train_sampling_strategy": "group_by_length"})
    return cast(tuple[RankingArguments, SFTConfig, ModelConfig], found)


def parse_grpo(arguments: Sequence[str] | None, program: str) -> tuple[GrpoArguments, GRPOConfig, ModelConfig]:
    """The same for `finetune.grpo`.

    Raises:
        ConfigError: When the file cannot be read, or an option is unknown or wrong.
    """
    from trl import GRPOConfig, ModelConfig

    kinds = (GrpoArguments, GRPOConfig, ModelConfig)
    return cast(tuple[GrpoArguments, GRPOConfig, ModelConfig], _parse(arguments, program, kinds, _GRPO_DEFAULTS))


def _parse(
    arguments: Sequence[str] | None, program: str, kinds: tuple[type, ...], defaults: Mapping[str, Any]
) -> tuple[Any, ...]:
    from trl import TrlParser

    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--config" in given[:-1]:
        read_yaml(given[given.index("--config") + 1])  # TRL reads it too, but takes the last of two equal keys
    parser = TrlParser(kinds, prog=program)
    parser.set_defaults(**_defaults(), **defaults)
    try:
        data, training, model = parser.parse_args_and_config(given)
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        if isinstance(error, InputError | ConfigError):
            raise
        raise ConfigError(f"config: {error}") from None
    if data.adapter and not model.use_peft:
        raise InputError("must be left out where use_peft is false; merge it first (finetune.merge)", field="adapter")
    return data, training, model
