"""Checkpoints of an interrupted training: the same training resumes from them, and no other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from trl import ModelConfig

from finetune.arguments import DataArguments
from finetune.training import model_name
from genrank.adapters import read_values
from genrank.errors import InputError
from genrank.files import files_fingerprint
from genrank.models.store import resolve
from genrank.models.weights import model_fingerprint

FILE = "training.json"
"""The file in a training's folder that says which training it is."""

_MOST_NAMED = 4  # of the options that differ, in the message
_WITHOUT_EFFECT = (
    "ddp_", "debug", "disable_tqdm", "do_", "hub_", "local_rank", "log_", "logging_", "output_dir",
    "per_device_eval_batch_size", "project", "push_to_hub", "report_to", "resume_from_checkpoint", "run_name",
    "save_total_limit", "skip_memory_metrics", "trackio_",
)  # fmt: skip
"""Prefixes of the names of TRL's options that do not affect what is learned."""


def last_checkpoint(folder: Path) -> str | None:
    """The last complete checkpoint; a checkpoint's state is written last."""
    whole = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").exists()]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def checkpoint_to_go_on_from(
    folder: Path, data: DataArguments, training: Any, model: ModelConfig, rows: str
) -> str | None:
    """The last checkpoint of this training; None at its start, which the first of its processes records in `FILE`.

    Args:
        folder: The training's ``output_dir``.
        data: genrank's own options.
        training: TRL's options.
        model: The model's options.
        rows: Fingerprint of the training examples.

    Raises:
        InputError: When the checkpoints are another training's.
        ConfigError: When `FILE` cannot be read.
        OSError: When it cannot be written.
    """
    options = _options(data, training, model, rows)
    checkpoint, file = last_checkpoint(folder), folder / FILE
    if checkpoint is None:
        if training.process_index == 0:
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(options, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        return None
    before = read_values(file) if file.is_file() else {}
    differ = [name for name in {**before, **options} if before.get(name) != options.get(name)]
    if differ:
        named = [f"{name} was {before.get(name)!r} and is {options.get(name)!r}" for name in differ[:_MOST_NAMED]]
        named += [f"and {len(differ) - _MOST_NAMED} more"] if len(differ) > _MOST_NAMED else []
        why = "; ".join(named) if before else f"there is no {FILE}, which would say which"
        raise InputError(
            f"{folder} holds the checkpoints of another training: {why}. Give another folder, delete this one, or give "
            "the same options to go on with that training",
            field="output_dir",
        )
    return checkpoint


def _options(data: DataArguments, training: Any, model: ModelConfig, rows: str) -> dict[str, Any]:
    """All options on which the result of a training depends, by name, as they come back from a JSON file."""
    found = {key: value for key, value in training.to_dict().items() if not key.startswith(_WITHOUT_EFFECT)}
    found |= dataclasses.asdict(model) | dataclasses.asdict(data)
    found |= {"rows": rows, "processes": training.world_size}
    found["model files"] = model_fingerprint(resolve(model_name(model)))
    if data.adapter:
        found["adapter files"] = files_fingerprint(Path(data.adapter).expanduser())
    values: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return values
