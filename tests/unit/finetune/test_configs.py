"""Every recipe loads, and opens with its command."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.distill import DistillConfig
from genrank.experiment.config import load_config

CONFIGS = Path(__file__).parents[3] / "finetune" / "configs"
NAMES = sorted(path.name for path in CONFIGS.glob("*.yaml"))


def named(prefix: str) -> list[str]:
    return [name for name in NAMES if name.startswith(prefix)]


OTHERS = [name for name in NAMES if not name.startswith(("accelerate-", "distill-", "grpo-"))]


def test_there_are_recipes() -> None:
    assert {"sample-shop.yaml", "product-search.yaml", "esci-qwen3.yaml"} <= set(OTHERS)
    assert named("accelerate-")
    assert named("distill-")
    assert named("grpo-")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_opens_with_its_command(name: str) -> None:
    program = {"distill": "distill", "grpo": "grpo"}.get(name.partition("-")[0], "sft")
    first = (CONFIGS / name).read_text(encoding="utf-8").splitlines()[0]
    if name in named("accelerate-"):
        assert first.startswith(f"# accelerate launch --config_file finetune/configs/{name} -m finetune.sft --config ")
        assert (CONFIGS.parents[1] / first.split()[-1]).is_file()
    else:
        assert first.startswith(f"# python -m finetune.{program} --config finetune/configs/{name}")


@pytest.mark.parametrize("name", named("distill-"))
def test_distillations_load(name: str) -> None:
    load_config(CONFIGS / name, DistillConfig)


@pytest.mark.parametrize("name", OTHERS)
def test_trainings_load(name: str) -> None:
    pytest.importorskip("trl", reason="trl is not installed: pip install 'genrank[train]'")
    from finetune.arguments import parse

    ranking, training, model = parse(["--config", str(CONFIGS / name)], "finetune.sft")
    assert training.output_dir == f"runs/sft/{Path(name).stem}"
    assert model.model_name_or_path
    ranking.windows()


@pytest.mark.parametrize("name", named("grpo-"))
def test_rewarded_trainings_load(name: str) -> None:
    pytest.importorskip("trl", reason="trl is not installed: pip install 'genrank[train]'")
    from finetune.arguments import parse_grpo

    grpo, training, _ = parse_grpo(["--config", str(CONFIGS / name)], "finetune.grpo")
    assert training.output_dir == f"runs/grpo/{Path(name).stem.removeprefix('grpo-')}"
    grpo.windows()


@pytest.mark.parametrize("name", named("accelerate-"))
def test_accelerate_reads_its_configurations(name: str) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'genrank[train]'")
    from accelerate.commands.config.config_args import ClusterConfig

    config = ClusterConfig.from_yaml_file(str(CONFIGS / name))
    assert config.distributed_type == "FSDP"
    assert config.fsdp_config["fsdp_version"] == 2
