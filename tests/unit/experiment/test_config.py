import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.baseline.config import BaselineConfig
from eval.config import Bm25System, RunConfig
from eval.cross_encoder import CrossEncoderConfig
from eval.crossval import CrossvalConfig
from eval.feedback import FeedbackConfig
from eval.prompts import PromptsConfig
from eval.retune.config import RetuneConfig
from eval.retune.trial import TrialConfig
from eval.robustness.config import RobustnessConfig
from eval.variety import VarietyConfig
from genrank.errors import ConfigError
from genrank.experiment.config import Strict, load_config, read_yaml

CONFIGS = Path(__file__).parents[3] / "eval" / "configs"
KINDS: dict[str, tuple[str, type[Strict]]] = {
    "run": ("run", RunConfig),
    "baseline": ("baseline train", BaselineConfig),
    "cross-encoder": ("cross_encoder train", CrossEncoderConfig),
    "crossval": ("crossval", CrossvalConfig),
    "feedback": ("feedback", FeedbackConfig),
    "prompts": ("prompts", PromptsConfig),
    "retune": ("retune", RetuneConfig),
    "retune-trial": ("retune.trial", TrialConfig),
    "robustness": ("robustness", RobustnessConfig),
    "variety": ("variety", VarietyConfig),
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
        (BLEND.format("[bm25, random], weight: 0.5", "bm25"), "systems: both needs random, which must come before it"),
        (
            "split: all\n" + BLEND.format("[bm25, bm25], fit: dev", "bm25"),
            "both must not be fitted on the split that is measured",
        ),
        (BLEND.format("[bm25, bm25], fit: test", "bm25"), "both must not be fitted on the split that is measured"),
        (BLEND.format("[bm25, bm25], weight: 1.5", "bm25"), r"systems\[1\].weight: .*less"),
        ("systems: [{type: random}]", "dataset: "),
        ("dataset: [", "not valid YAML"),
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
    with pytest.raises(ConfigError, match=r"Is a directory|Permission denied"):
        load_config(tmp_path, RunConfig)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xfe\x00", "UTF-16 in place of UTF-8 text; save it as UTF-8"),
        ("a: ключ".encode("cp1251"), "text that is not UTF-8: the byte 0xea"),
        ("a: 1\n".encode("utf-16"), "UTF-16 in place of UTF-8 text; save it as UTF-8"),
        (b"a:\n\tb: 1\n", r"c.yaml:2: not valid YAML: .*indent with spaces, not with tabs"),
        (b"a: 1\n\t\tb: 1\n", r"c.yaml:\d: not valid YAML: "),
        (b"a: \x00\n", "not valid YAML: unacceptable character"),
        (b"a: 1\nb: 2\na: 3\n", "c.yaml:3: the key 'a' is given twice, first on line 1; remove one"),
        (b"a:\n  b: 1\n  'b': 2\n", "c.yaml:3: the key 'b' is given twice, first on line 2"),
        (b"- {x: 1, y: 2, x: 1}\n", "c.yaml:1: the key 'x' is given twice"),
        (b"{1: a, 0x1: b}\n", "c.yaml:1: the key '0x1' is given twice"),
        (b"a: " + b"9" * 5000, "c.yaml:1: '9999.*' is not a valid int: "),
        (b"a: 1\nb: " + b"9" * 30, "c.yaml:2: '9999.*' needs more than 64 bits"),
        (b"a: [-" + b"9" * 30 + b"]", "c.yaml:1: '-9999.*' needs more than 64 bits"),
        (b"a: 0b_\n", "c.yaml:1: '0b_' is not a valid int"),
        (b"a: 1.0e+999\n", "c.yaml:1: .* is not a finite number"),
        (b"a: .inf\n", "c.yaml:1: '.inf' is not a finite number"),
        (b"a: .NaN\n", "c.yaml:1: '.NaN' is not a finite number"),
        (b"a: 2026-02-30\n", "c.yaml:1: '2026-02-30' is not a valid timestamp"),
        (b"a: !!python/object:os.system {}\n", "c.yaml:1: not valid YAML: could not determine a constructor"),
        (b"? [a]\n: 1\n", "c.yaml:1: not valid YAML: found unhashable key"),
        (b"a: &x [*x]\n", "c.yaml:1: an alias contains itself"),
        (b"&x a: {b: *x, c: *y}\n", "c.yaml:1: not valid YAML: found undefined alias"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"a: 1\n---\nb: 1\n", "c.yaml:2: not valid YAML: but found another document"),
    ],
)
def test_what_is_no_such_yaml_is_told_in_one_line(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(data)
    with pytest.raises(ConfigError, match=words) as caught:
        read_yaml(tmp_path / "c.yaml")
    assert str(caught.value).startswith(str(tmp_path / "c.yaml"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    started = time.monotonic()
    with pytest.raises(ConfigError, match="holds more than 100000 values, aliases expanded"):
        read_yaml(written(tmp_path, "\n".join(lines)))
    assert time.monotonic() - started < 2


def test_aliases_and_merges_are_read(tmp_path: Path) -> None:
    text = "base: &base {k: 1, l: 2}\none: *base\ntwo: {<<: *base, k: 3}\nthree: {<<: [*base, {m: 4}]}\n"
    base = {"k": 1, "l": 2}
    found = read_yaml(written(tmp_path, text))
    assert found == {"base": base, "one": base, "two": {"k": 3, "l": 2}, "three": {**base, "m": 4}}


@pytest.mark.parametrize("values", [-(2**63), 2**64 - 1, 1e300, -0.5, True, None, "x: y", "9" * 30, [], {}, ["ключ"]])
def test_other_values_are_read_as_pyyaml_reads_them(values: Any, tmp_path: Path) -> None:
    text = yaml.safe_dump({"a": values})
    assert read_yaml(written(tmp_path, text)) == yaml.safe_load(text) == {"a": values}


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    assert read_yaml(written(tmp_path, "")) is read_yaml(written(tmp_path, "# words\n")) is None


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbfdataset: d\nsystems: [{type: random}]\n")
    assert load_config(path, RunConfig).dataset == "d"
