"""Cross-validation: measure systems on all queries of a dataset, each ranked by a model that did not see it.

::

    python -m eval.crossval --config eval/configs/crossval/NAME.yaml [--system NAME ...] [--fold K ...]
                            [--out runs/crossval/NAME] [--cache FOLDER]

The queries are dealt into folds by a hash of their words, so equal queries share a fold. For each fold a dataset folder
is written whose test queries are the fold's; all others are its train and dev queries. Every system is trained on it,
in a process of its own, and ranks its test queries. Then the folds' results are joined and measured together, as by
`eval.run`. A blend's weight is fitted in each fold on the fold's dev queries.

Nothing is done twice: a training is kept under a hash of its options and its fold's data, a ranking under all that it
depends on (`eval.cache`). ``--system`` and ``--fold`` (0-based; both may be repeated) do a part of the work. What is
finished in all folds is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from rich.console import Console

from eval.blend import blend
from eval.cache import default_folder
from eval.config import (
    ALL,
    BertCosineSystem,
    BlendSystem,
    Bm25System,
    FirstStageSystem,
    RandomSystem,
    RunConfig,
    System,
)
from eval.report import write_report
from eval.run import Record, make_requests, print_table
from eval.systems import SystemResult, kept_result, run_system
from genrank.adapters import load_manifest
from genrank.data.dataset import Dataset
from genrank.data.trec import Run
from genrank.errors import ConfigError, GenrankError, InputError, MissingExtraError
from genrank.experiment.config import Name, Strict, check_names_differ, load_config, read_yaml
from genrank.experiment.datasets import load_dataset
from genrank.experiment.fingerprints import requests_fingerprint
from genrank.experiment.program import exit_status, say
from genrank.experiment.splits import digest, fraction, query_digest
from genrank.experiment.systems import BaselineSystem, CrossEncoderSystem, GenrankSystem
from genrank.files import fingerprint, write_atomically
from genrank.types import Decoding, Request


class BaselineTraining(Strict):
    """BERT + GBDT, trained with ``python -m eval.baseline train``.

    Attributes:
        name: Name of its run file and of its row in tables.
        config: Its configuration; the dataset is replaced by the fold's.
        options: Keys of the configuration to set.
    """

    type: Literal["baseline"]
    name: Name = "baseline"
    config: str
    options: Mapping[str, Any] = Field(default_factory=dict)


class CrossEncoderTraining(Strict):
    """A cross-encoder, trained with ``python -m eval.cross_encoder train``.

    Attributes:
        name: Name of its run file and of its row in tables.
        config: Its configuration; the dataset is replaced by the fold's.
        options: Keys of the configuration to set.
    """

    type: Literal["cross-encoder"]
    name: Name = "cross-encoder"
    config: str
    options: Mapping[str, Any] = Field(default_factory=dict)


class SftTraining(Strict):
    """genrank with an adapter, trained with ``python -m finetune.sft``.

    Attributes:
        name: Name of its run file and of its row in tables.
        config: The training's configuration. Wherever it names the dataset, the fold's is put; it may train on others
            too.
        options: Keys of the configuration to set.
        decoding: See `GenrankSystem`; by default the adapter's best.
        prompt: See `GenrankSystem`; by default the one of the training.
        passes: See `GenrankSystem`.
        window: See `GenrankSystem`.
        max_prompt_tokens: See `GenrankSystem`.
        batch: See `GenrankSystem`.
        history: See `GenrankSystem`.
    """

    type: Literal["sft"]
    name: Name
    config: str
    options: Mapping[str, Any] = Field(default_factory=dict)
    decoding: Decoding | None = None
    prompt: str | None = None
    passes: int | None = None
    window: int | None = None
    max_prompt_tokens: int | None = None
    batch: Annotated[int, Field(ge=1)] = 16
    history: Literal["own", "none", "other"] = "own"


Training = BaselineTraining | CrossEncoderTraining | SftTraining
Untrained = RandomSystem | FirstStageSystem | Bm25System | BertCosineSystem | GenrankSystem
Part = Annotated[Training | Untrained | BlendSystem, Field(discriminator="type")]

_PROGRAMS = {
    "baseline": ("eval.baseline", "train"),
    "cross-encoder": ("eval.cross_encoder", "train"),
    "sft": ("finetune.sft",),
}
_DEV, _TEST = "dev", "test"


class CrossvalConfig(Strict):
    """A cross-validation.

    Attributes:
        dataset: A dataset folder, relative to the current directory (``~`` is the home directory), or ``sample-shop``.
        folds: How many parts the queries are dealt into.
        dev_share: Share of the other folds' queries that are a fold's dev queries.
        max_candidates: Candidates of each query, the first stage's best.
        seed: Seed of the dev queries and of a reranker's passes.
        k: Depth of the primary metric, nDCG@k, and of precision and recall.
        cutoffs: Depths at which nDCG is given.
        relevant: Lowest grade that is relevant; None takes the upper half of the grades.
        reference: Name of the system that the others are compared with; None takes the first that is not random.
        systems: The systems; a blend is fitted on each fold's dev queries.
    """

    dataset: str
    folds: Annotated[int, Field(ge=2)] = 5
    dev_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    max_candidates: Annotated[int, Field(ge=1)] = 20
    seed: int = 0
    k: Annotated[int, Field(ge=1)] = 10
    cutoffs: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (5, 10, 20)
    relevant: int | None = None
    reference: str | None = None
    systems: Annotated[tuple[Part, ...], Field(min_length=1)]

    @field_validator("systems")
    @classmethod
    def _names_differ(cls, systems: tuple[Part, ...]) -> tuple[Part, ...]:
        check_names_differ(system.name for system in systems)
        return systems

    @model_validator(mode="after")
    def _blends_are_of_systems_before_them(self) -> CrossvalConfig:
        known: list[str] = []
        for system in self.systems:
            if not isinstance(system, BlendSystem):
                known.append(system.name)
                continue
            for name in system.systems:
                if name not in known:
                    raise ValueError(f"systems: {system.name} needs {name}, which must come before it")
            if system.fit != _DEV:
                raise ValueError(f"systems: {system.name} is fitted on each fold's dev queries, got fit: {system.fit}")
        return self

    @model_validator(mode="after")
    def _reference_is_a_system(self) -> CrossvalConfig:
        names = [system.name for system in self.systems]
        if self.reference is not None and self.reference not in names:
            raise ValueError(f"reference: no system {self.reference!r}; the systems are {', '.join(names)}")
        return self

    def run_config(self, split: str) -> RunConfig:
        """The configuration of `eval.run` for one split; it names no systems of this one."""
        return RunConfig(
            dataset=self.dataset,
            split=split,
            max_candidates=self.max_candidates,
            seed=self.seed,
            k=self.k,
            cutoffs=self.cutoffs,
            relevant=self.relevant,
            systems=(RandomSystem(type="random"),),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a failed run, 2 for a usage or configuration error.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.crossval", description="Cross-validate systems on a dataset.")
    parser.add_argument("--config", type=Path, required=True, help="a file of eval/configs/crossval")
    parser.add_argument("--system", action="append", metavar="NAME", help="only this system; may be repeated")
    parser.add_argument(
        "--fold", action="append", type=int, metavar="K", help="only this fold, 0-based; may be repeated"
    )
    parser.add_argument("--out", type=Path, help="folder for trainings and results (runs/crossval/NAME)")
    parser.add_argument("--cache", type=Path, default=default_folder(), help="folder of kept results (%(default)s)")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    config = load_config(options.config, CrossvalConfig)
    _check_names("--system", options.system, [one.name for one in config.systems if not isinstance(one, BlendSystem)])
    _check_names("--fold", options.fold, range(config.folds))
    out = options.out or Path("runs") / "crossval" / options.config.stem
    dataset = load_dataset(config.dataset, config.seed)
    folds = [Fold(config, dataset, number, out / f"fold-{number}", options.cache) for number in range(config.folds)]
    for fold in folds if options.fold is None else [folds[number] for number in sorted(set(options.fold))]:
        for system in config.systems:
            if not isinstance(system, BlendSystem) and (options.system is None or system.name in options.system):
                fold.run(system)
    results = join(config, dataset, folds, out, command=f"python -m eval.crossval --config {options.config}")
    if results is None:
        say("no system is finished in all folds yet")
        return
    print_table(results, Console())
    say(f"the report is {write_report(out, dataset)}")


def _check_names(option: str, given: Sequence[Any] | None, known: Sequence[Any]) -> None:
    for one in given or ():
        if one not in known:
            raise InputError(f"must be one of {', '.join(map(str, known))}, got {one}", field=option)


def fold_of(text: str, folds: int) -> int:
    """The fold of a query, 0-based: equal words, but for letter case, always share one."""
    return int(fraction(text) * folds)


def fold_dataset(dataset: Dataset, config: CrossvalConfig, number: int) -> Dataset:
    """The dataset of one fold: its queries are ``test``, some of the others ``dev``, and the rest ``train``.

    Args:
        dataset: The whole dataset.
        config: Gives the folds, the share of dev queries and the seed.
        number: The fold, 0-based.

    Raises:
        InputError: When one of the splits would be empty.
    """

    def split(text: str) -> str:
        if fold_of(text, config.folds) == number:
            return _TEST
        # by the words too, so that no dev query is a train query
        place = int(digest(f"dev {config.seed}", query_digest(text))[:12], 16) / 16**12
        return _DEV if place < config.dev_share else "train"

    queries = [dataclasses.replace(query, split=split(query.query.text)) for query in dataset.queries]
    counts = Counter(query.split for query in queries)
    for name in ("train", _DEV, _TEST):
        if not counts[name]:
            raise InputError(
                f"fold {number} of {dataset.name} has no {name} query ({len(queries)} queries in all); take fewer "
                "folds or another dev_share",
                field="folds",
            )
    return dataclasses.replace(dataset, queries=tuple(queries))


class Fold:
    """One fold: its dataset folder, the systems trained on it, and their rankings.

    Args:
        config: The cross-validation.
        dataset: The whole dataset.
        number: The fold, 0-based.
        folder: Where its dataset and trainings are kept.
        cache: Folder of kept rankings.
    """

    def __init__(self, config: CrossvalConfig, dataset: Dataset, number: int, folder: Path, cache: Path) -> None:
        self._config, self._number, self._folder, self._cache = config, number, folder, cache
        self.dataset = fold_dataset(dataset, config, number)
        self.requests = {split: make_requests(config.run_config(split), self.dataset) for split in (_TEST, _DEV)}

    def run(self, system: Training | Untrained) -> None:
        """Train a system, if it needs it, and let it rank the queries that are wanted of it.

        Raises:
            GenrankError: When the training fails, or whatever the ranking raises.
        """
        say(f"{system.name}, fold {self._number} ...")
        trained = self._train(system) if isinstance(system, Training) else system
        for split in self._splits(system.name):
            run_system(trained, self._config.run_config(split), self.dataset, self.requests[split], self._cache)

    def results(self, system: Training | Untrained) -> dict[str, SystemResult] | None:
        """The kept results of a system by split; None if it is not finished."""
        trained: System | None = self._trained(system) if isinstance(system, Training) else system
        if trained is None:
            return None
        found = {}
        for split in self._splits(system.name):
            config, requests = self._config.run_config(split), self.requests[split]
            result = kept_result(trained, config, self.dataset, requests, self._cache)
            if result is None:
                return None
            found[split] = result
        return found

    def _splits(self, name: str) -> list[str]:
        """The splits that a system ranks: dev too where a blend is fitted on it."""
        fitted = (one for one in self._config.systems if isinstance(one, BlendSystem) and one.weight is None)
        return [_TEST, _DEV] if any(name in one.systems for one in fitted) else [_TEST]

    def _train(self, system: Training) -> System:
        if (known := self._trained(system)) is not None:
            return known
        data, out = self._data(), self._place(system)
        values = with_dataset(options_of(system), self._config.dataset, data, system.config)
        file = self._folder / f"{out.name}.yaml"
        status = run_program(program_of(system, values, file, out), file.with_suffix(".log"))
        if status:
            raise GenrankError(f"{system.name}: the training of fold {self._number} ended with status {status}; {file}")
        (self._folder / f"{out.name}.done").touch()
        return self._system(system)

    def _trained(self, system: Training) -> System | None:
        """The trained system; None if it is not trained yet with these options on this data."""
        return self._system(system) if (self._folder / f"{self._place(system).name}.done").exists() else None

    def _system(self, system: Training) -> System:
        folder = self._place(system)
        try:
            return trained_system(system, folder / "adapter" if isinstance(system, SftTraining) else folder)
        except ConfigError as error:
            raise ConfigError(f"{error}; delete {folder}.done to train it again") from None

    def _place(self, system: Training) -> Path:
        """The folder of a training, by its options and data."""
        key = fingerprint([system.type, options_of(system), self._fingerprint()])
        return self._folder / f"{system.name}-{key[:8]}"

    def _fingerprint(self) -> str:
        splits = [(query.query.query_id, query.split) for query in self.dataset.queries]
        every = requests_fingerprint(self.dataset.request(query) for query in self.dataset.queries)
        return fingerprint([splits, every, self.dataset.qrels])

    def _data(self) -> Path:
        """The fold's dataset folder, written if it is missing."""
        folder = self._folder / f"data-{self._fingerprint()[:8]}"
        if not folder.is_dir():
            part = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            self.dataset.save(part)
            part.replace(folder)
        return folder


def with_dataset(values: Mapping[str, Any], name: str, folder: Path, config: str) -> dict[str, Any]:
    """Options of a training with a fold's folder wherever they name the dataset.

    Args:
        values: The options.
        name: The dataset, as the cross-validation names it.
        folder: The fold's.
        config: The options' file, for the message.

    Raises:
        ConfigError: When the training does not name the dataset.
    """
    home = Path(name).expanduser()

    def put(value: Any) -> Any:
        if isinstance(value, list):
            return [put(one) for one in value]
        return str(folder) if isinstance(value, str) and (value == name or Path(value).expanduser() == home) else value

    found = {
        key: put(value) if key in ("dataset", "datasets", "dev", "measured") else value for key, value in values.items()
    }
    if found == values:
        raise ConfigError(f"{config}: does not train on {name}, the dataset of the cross-validation")
    return found


def trained_system(training: Training, folder: Path) -> System:
    """What `eval.run` measures once a training has written its folder.

    Args:
        training: How it was trained.
        folder: The ranker, the adapter or the whole model.

    Raises:
        ConfigError: When an adapter or a model of genrank has no manifest.
    """
    match training:
        case BaselineTraining():
            return BaselineSystem(type="baseline", name=training.name, folder=str(folder))
        case CrossEncoderTraining():
            return CrossEncoderSystem(type="cross-encoder", name=training.name, folder=str(folder))
    is_adapter = (folder / "adapter_config.json").exists()
    manifest = load_manifest(folder)
    if manifest is None:
        raise ConfigError(f"{training.name}: {folder} has no manifest")
    return GenrankSystem(
        type="genrank",
        model=manifest.base_model if is_adapter else str(folder),
        adapter=str(folder) if is_adapter else None,
        blend=False,
        **training.model_dump(exclude={"type", "config", "options"}),
    )


def program_of(training: Training, values: Mapping[str, Any], file: Path, out: Path) -> list[str]:
    """Write the options of a training, and give the arguments of `run_program` that start it.

    Args:
        training: What to train.
        values: Its options.
        file: The YAML file to write them to.
        out: Folder that it is to write to; `finetune.sft` writes the adapter to ``adapter`` in it.
    """
    if isinstance(training, SftTraining):
        _write_yaml(file, {**values, "output_dir": str(out)})
        return [*_PROGRAMS[training.type], "--config", str(file)]
    _write_yaml(file, values)
    return [*_PROGRAMS[training.type], "--config", str(file), "--out", str(out)]


def options_of(training: Training) -> dict[str, Any]:
    """The options of a training: those in its file, and those that replace them.

    Raises:
        ConfigError: When the file cannot be read or holds no mapping.
    """
    values = read_yaml(training.config)
    if not isinstance(values, dict):
        raise ConfigError(f"{training.config}: must be a mapping of options")
    return {**values, **training.options}


def run_program(arguments: Sequence[str], log: Path, keep: Sequence[int] = ()) -> int:
    """Run a module as a program in a process of its own.

    Args:
        arguments: The module's name, and its arguments.
        log: File that gets the program's stdout.
        keep: File descriptors that it inherits.

    Returns:
        Its exit status.
    """
    with log.open("w", encoding="utf-8") as out:
        return subprocess.run([sys.executable, "-m", *arguments], stdout=out, pass_fds=keep, check=False).returncode


def _write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("pyyaml", "eval") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as part:
        part.write_text(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True), encoding="utf-8")


def join(
    config: CrossvalConfig, dataset: Dataset, folds: Sequence[Fold], out: Path, *, command: str = ""
) -> dict[str, Any] | None:
    """Measure the systems that are finished in all folds, over all queries, and write the results.

    Args:
        config: The cross-validation.
        dataset: The whole dataset.
        folds: Its folds.
        out: Folder for the results.
        command: How the run was started, for the record.

    Returns:
        What results.json holds; None if no system is finished.
    """
    by_fold: dict[str, list[dict[str, SystemResult]]] = {}
    for system in config.systems:
        if isinstance(system, BlendSystem):
            continue
        found = [result for fold in folds if (result := fold.results(system)) is not None]
        if len(found) == len(folds):
            by_fold[system.name] = found
        else:
            say(f"{system.name} is finished in {len(found)} of {len(folds)} folds: left out")
    measured = [
        one
        for one in config.systems
        if one.name in by_fold or (isinstance(one, BlendSystem) and all(name in by_fold for name in one.systems))
    ]
    if not measured:
        return None
    names = [one.name for one in measured]
    others = [one.name for one in measured if not isinstance(one, RandomSystem)] or names
    reference = config.reference if config.reference in names else others[0]
    whole = config.run_config(ALL)
    record = Record(whole, dataset, make_requests(whole, dataset), out, reference, len(measured), command)
    for system in measured:
        settings = system.model_dump(mode="json")
        if isinstance(system, BlendSystem):
            blends = [_blended(system, fold, i, by_fold, config.k) for i, fold in enumerate(folds)]
            settings["weights"] = [weight for _, weight in blends]
            results = [one for one, _ in blends]
        else:
            results = [one[_TEST] for one in by_fold[system.name]]
        record.add(system.name, system.type, settings, joined(results))
    return record.results


def _blended(
    system: BlendSystem, fold: Fold, number: int, by_fold: Mapping[str, Sequence[Mapping[str, SystemResult]]], k: int
) -> tuple[SystemResult, float]:
    """A blend of one fold, and the weight of its first system."""

    def of(split: str) -> dict[str, SystemResult]:
        return {name: by_fold[name][number][split] for name in system.systems}

    def fitted_on() -> tuple[Sequence[Request], Mapping[str, SystemResult]]:
        return fold.requests[_DEV], of(_DEV)

    return blend(system, of(_TEST), fold.requests[_TEST], fold.dataset, fitted_on, k)


def joined(results: Sequence[SystemResult]) -> SystemResult:
    """The results of disjoint queries as one."""
    run: Run = {}
    chances: Run = {}
    notes: Counter[str] = Counter()
    for result in results:
        run |= result.run
        chances |= result.probabilities or {}
        notes.update(result.notes)
    return SystemResult(
        run,
        sum(result.seconds for result in results),
        sum(result.load_seconds for result in results),
        tuple(ranking for result in results for ranking in result.rankings),
        chances if len(chances) == len(run) else None,
        dict(notes),
        any(result.cached for result in results),
    )


if __name__ == "__main__":
    sys.exit(main())
