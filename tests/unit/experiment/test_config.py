from pathlib import Path

import pytest

from eval.baseline.config import BaselineConfig
from eval.config import Bm25System, RunConfig
from eval.cross_encoder import CrossEncoderConfig
from eval.prompts import PromptsConfig
from eval.robustness.config import RobustnessConfig
from genrank.errors import ConfigError
from genrank.experiment.config import Strict, load_config

CONFIGS = Path(__file__).parents[3] / "eval" / "configs"
KINDS: dict[str, tuple[str, type[Strict]]] = {
    "run": ("run", RunConfig),
    "baseline": ("baseline train", BaselineConfig),
    "cross-encoder": ("cross_encoder train", CrossEncoderConfig),
    "prompts": ("prompts", PromptsConfig),
    "robustness": ("robustness", RobustnessConfig),
}
BLEND = "dataset: d\nsystems: [{{type: {1}}}, {{type: blend, name: both, systems: {0}}}]"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_there_are_configs() -> None:
    assert {path.name for path in CONFIGS.glob("*.yaml")} >= {"crowdflower.yaml", "sample-shop.yaml"}
    assert {path.parent.name for path in CONFIGS.rglob("*.yaml")} == {"configs", *KINDS} - {"run"}
    assert not list(CONFIGS.rglob("*.yml"))


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_config_loads_and_opens_with_its_command(path: Path) -> None:
    name = "run" if path.parent == CONFIGS else path.parent.name
    program, kind = KINDS[name]
    load_config(path, kind)
    command = f"# python -m eval.{program} --config {path.relative_to(CONFIGS.parents[1]).as_posix()}"
    assert path.read_text(encoding="utf-8").splitlines()[0] == command


def test_defaults(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "dataset: d\nsystems: [{type: bm25, fields: [title]}]"), RunConfig)
    assert (config.split, config.max_candidates, config.seed, config.k) == ("test", 20, 0, 10)
    assert config.systems == (Bm25System(type="bm25", fields=("title",)),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dataset: d\nsplits: test\nsystems: [{type: random}]", "splits: unknown key; did you mean split"),
        (
            "dataset: d\nsystems: [{type: random}, {type: bm25, ids: x}]",
            r"systems\[1\].ids: unknown key.*name, idf, fields",
        ),
        ("dataset: d\nsystems: [{type: genrank, name: g, model: m, batch: 0}]", r"systems\[0\].batch: .*greater"),
        ("dataset: d\nsystems: [{type: magic}]", r"systems\[0\]: .*'random'"),
        ("dataset: d\nsystems: [{type: random}, {type: bm25, name: random}]", "two systems"),
        ("dataset: d\nsystems: [{type: random, name: ../x}]", r"systems\[0\].name"),
        ("dataset: d\nsystems: []", "systems: "),
        (BLEND.format("[bm25, random], weight: 0.5", "bm25"), "systems: both needs random, which must stand before it"),
        (BLEND.format("[bm25, bm25], fit: test", "bm25"), "both must not be fitted on the split that is measured"),
        (BLEND.format("[bm25, bm25], weight: 1.5", "bm25"), r"systems\[1\].weight: .*less"),
        ("systems: [{type: random}]", "dataset: "),
        ("dataset: [", "no YAML"),
        ("", "must be a mapping"),
    ],
)
def test_wrong_configs(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(path, RunConfig)
    assert str(path) in str(caught.value)


def test_unreadable_configs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.yaml", RunConfig)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "b.yaml", RunConfig)
