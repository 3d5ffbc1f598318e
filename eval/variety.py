"""What variety and business rules cost: nDCG against alpha-nDCG and coverage, at every setting of the knob.

::

    python -m eval.variety --config eval/configs/variety/NAME.yaml [--out runs/variety-NAME]

Each system's ranking of each query is diversified by each method (`genrank.search.diversity`) at each setting. The
knob is then chosen on half of the queries and measured on the other half, both ways round: the setting with the most
coverage among those that lose at most ``loss``. Rules (`genrank.search.rules`) are applied to the rankings as they
are. The folder gets ``variety.json`` and ``variety.html``, a plot; tables go to stdout, messages to stderr.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from rich.console import Console
from rich.table import Table

from eval.config import Bm25System, FirstStageSystem, RunConfig, TrecSystem
from eval.diversity import coverage, diversity
from eval.run import make_requests
from eval.significance import compare
from eval.systems import run_system
from genrank.data.dataset import Dataset
from genrank.data.jsonl import read_jsonl
from genrank.errors import ConfigError, DataFormatError, InputError, MissingExtraError
from genrank.experiment.config import Name, Strict, check_names_differ, load_config
from genrank.experiment.datasets import load_dataset
from genrank.experiment.metrics import candidate_ids, measure, relevant_grade
from genrank.experiment.program import exit_status, say
from genrank.experiment.record import circumstances
from genrank.experiment.splits import digest
from genrank.progress import track
from genrank.search.bm25 import tokenise
from genrank.search.diversity import ASPECTS, Aspect, aspect_vectors, diversify
from genrank.search.rules import Rules, apply_rules, rule_costs
from genrank.types import Decoding, Listing, Provenance, RankedItem, Ranking, Request, Variety

_LEAST_TITLES = 3
_LEAST_SHARE = 0.6


class RankingsSystem(Strict):
    """Ranking lines of genrank, whose scores have their decoding's scale.

    Attributes:
        name: Its name in tables.
        path: A file that `eval.run` or ``genrank rerank`` wrote.
    """

    type: Literal["rankings"]
    name: Name
    path: str


System = FirstStageSystem | Bm25System | TrecSystem | RankingsSystem


class VarietyConfig(Strict):
    """One measurement of the knob and of rules.

    Attributes:
        dataset: As in `eval.config.RunConfig`; so are `split`, `max_candidates`, `seed`, `k` and `relevant`.
        brands_from_titles: Whether listings get a brand out of their titles, see `brands_from_titles`.
        aspects: By which listings are alike.
        coverage: The aspect whose coverage is measured.
        methods: The methods.
        varieties: Settings of the knob, above 0; 0 is always measured.
        loss: The most nDCG@k that the chosen setting may lose.
        rules: Business rules, as in a file of `genrank.search.rules.load_rules`; None applies none.
        systems: Whose rankings are diversified.
    """

    dataset: str
    split: str = "all"
    max_candidates: Annotated[int, Field(ge=1)] = 20
    seed: int = 0
    k: Annotated[int, Field(ge=1)] = 10
    relevant: int | None = None
    brands_from_titles: bool = False
    aspects: Annotated[tuple[Aspect, ...], Field(min_length=1)] = ASPECTS
    coverage: Literal["category", "brand"] = "category"
    methods: Annotated[tuple[Variety, ...], Field(min_length=1)] = ("mmr", "dpp")
    varieties: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)]
    loss: Annotated[float, Field(ge=0)] = 0.01
    rules: Mapping[str, Any] | None = None
    systems: Annotated[tuple[Annotated[System, Field(discriminator="type")], ...], Field(min_length=1)]

    @field_validator("systems")
    @classmethod
    def _names_differ(cls, systems: tuple[System, ...]) -> tuple[System, ...]:
        check_names_differ(system.name for system in systems)
        return systems

    @model_validator(mode="after")
    def _rules_are_rules(self) -> VarietyConfig:
        try:
            self.made_rules()
        except InputError as error:
            raise ValueError(f"rules.{error}") from None
        return self

    def made_rules(self) -> Rules:
        """The rules.

        Raises:
            InputError: When one is wrong.
        """
        return Rules(**(self.rules or {}))


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over queries, each 0 to 1.

    Attributes:
        ndcg: nDCG@k.
        alpha_ndcg: alpha-nDCG@k.
        coverage: Share of the aspects among the candidates that the first k show.
    """

    ndcg: float
    alpha_ndcg: float
    coverage: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a failed run, 2 for a usage or configuration error.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.variety", description="Measure variety and rules.")
    parser.add_argument("--config", type=Path, required=True, help="a file of eval/configs/variety")
    parser.add_argument("--out", type=Path, help="folder for the results (runs/variety-NAME)")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    config = load_config(options.config, VarietyConfig)
    out = options.out or Path("runs") / f"variety-{options.config.stem}"
    results = measure_variety(config, load_dataset(config.dataset, config.seed))
    out.mkdir(parents=True, exist_ok=True)
    written = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
    (out / "variety.json").write_text(written + "\n", encoding="utf-8")
    print_tables(results, Console())
    plot(results, out / "variety.html")
    say(f"the plot is {out / 'variety.html'}")


def brands_from_titles(listings: Iterable[Listing]) -> dict[str, str]:
    """Guess brands: the first word of a title, if it opens at least 3 titles and 60 % of the titles that hold it.

    Returns:
        Brand by listing id; listings without one are left out. Digits alone are no brand.
    """
    titles = {listing.listing_id: tokenise(listing.title) for listing in listings}
    opens = Counter(words[0] for words in titles.values() if words)
    holds = Counter(word for words in titles.values() for word in set(words))
    brands = {
        word
        for word, count in opens.items()
        if count >= _LEAST_TITLES and count >= _LEAST_SHARE * holds[word] and not word.isdigit()
    }
    return {key: words[0] for key, words in titles.items() if words and words[0] in brands}


def measure_variety(config: VarietyConfig, dataset: Dataset) -> dict[str, Any]:
    """Measure all systems of a configuration.

    Returns:
        What variety.json holds.

    Raises:
        ConfigError: When a file is missing or lacks a query, or no listing has the aspect whose coverage is asked for.
        GenrankError: Whatever a system raises.
    """
    if config.brands_from_titles:
        brands = brands_from_titles(dataset.listings.values())
        listings = {
            key: dataclasses.replace(listing, brand=brands.get(key, listing.brand))
            for key, listing in dataset.listings.items()
        }
        dataset = dataclasses.replace(dataset, listings=listings)
    asked = RunConfig(
        dataset=config.dataset,
        split=config.split,
        max_candidates=config.max_candidates,
        seed=config.seed,
        systems=(FirstStageSystem(type="first-stage"),),
    )
    requests = make_requests(asked, dataset)
    rig = _Rig(config, dataset, requests)
    systems = {}
    for system in config.systems:
        say(f"{system.name} ...")
        rankings = _rankings(system, asked, dataset, requests)
        systems[system.name] = {"knob": rig.knob(rankings), "rules": rig.rules(rankings)}
    return {
        **circumstances(),
        "settings": config.model_dump(mode="json"),
        "queries": len(requests),
        "listings_with_aspect": sum(bool(aspect) for aspect in rig.aspects.values()) / len(rig.aspects),
        "systems": systems,
    }


def _rankings(system: System, config: RunConfig, dataset: Dataset, requests: Sequence[Request]) -> list[Ranking]:
    """A system's ranking of each request, with its own scores."""
    decodings: dict[str, Decoding | Literal[""]] = {}
    scores: dict[str, dict[str, float]] = {}
    if isinstance(system, RankingsSystem):
        path = Path(system.path).expanduser()
        for number, line in read_jsonl(path):
            try:
                query_id, items, decoding = line["query_id"], line["items"], line["provenance"]["decoding"]
                scores[query_id] = {item["listing_id"]: float(item["score"]) for item in items}
                decodings[query_id] = decoding
            except (TypeError, KeyError, ValueError):
                raise DataFormatError(str(path), number, "a ranking line", "another line") from None
    else:
        scores = run_system(system, config, dataset, requests).run
    rankings = []
    for request in requests:
        query_id = request.query.query_id
        ranks = {candidate.listing.listing_id: rank for rank, candidate in enumerate(request.candidates, start=1)}
        found = scores.get(query_id, {})
        if found.keys() != ranks.keys():
            raise ConfigError(
                f"{system.name}: query {query_id}: must rank its {len(ranks)} candidates, ranks {len(found)}"
            )
        items = tuple(
            RankedItem(dataset.listings[key], rank, score, ranks[key])
            for rank, (key, score) in enumerate(found.items(), start=1)
        )
        rankings.append(Ranking(query_id, items, Provenance(decoding=decodings.get(query_id, ""))))
    return rankings


class _Rig:
    """Measures rankings of some requests."""

    def __init__(self, config: VarietyConfig, dataset: Dataset, requests: Sequence[Request]) -> None:
        self._config, self._dataset = config, dataset
        self._candidates = candidate_ids(requests)
        self._relevant = relevant_grade(dataset.grades) if config.relevant is None else config.relevant
        shown = {key for ids in self._candidates.values() for key in ids}
        self.aspects = {key: getattr(dataset.listings[key], config.coverage) for key in shown}
        if not any(self.aspects.values()):
            raise ConfigError(f"coverage: no listing of {dataset.name} has a {config.coverage}")

    def knob(self, rankings: Sequence[Ranking]) -> dict[str, Any]:
        """Figures of each method at each setting, and of the setting chosen on other queries."""
        vectors = [aspect_vectors([item.listing for item in one], self._config.aspects) for one in rankings]
        found: dict[str, Any] = {}
        for method in self._config.methods:
            settings = {
                variety: [
                    diversify(one, variety=variety, method=method, top_k=self._config.k, vectors=rows)
                    for one, rows in zip(rankings, vectors, strict=True)
                ]
                for variety in track(sorted({0.0, *self._config.varieties}), method)
            }
            found[method] = {
                "settings": [
                    {"variety": variety, **dataclasses.asdict(self._figures(some))}
                    for variety, some in settings.items()
                ],
                "chosen": self._chosen(settings),
            }
        return found

    def _chosen(self, settings: Mapping[float, Sequence[Ranking]]) -> dict[str, Any]:
        """The setting chosen on each half of the queries, measured on the other half."""
        places = range(len(settings[0.0]))
        by_hash = sorted(places, key=lambda i: digest(str(self._config.seed), settings[0.0][i].query_id))
        halves = (by_hash[::2], by_hash[1::2])
        before: list[Ranking] = []
        after: list[Ranking] = []
        varieties = []
        for half, other in (halves, halves[::-1]):
            if not half or not other:
                return {}
            figures = {variety: self._figures([some[i] for i in half]) for variety, some in settings.items()}
            least = figures[0.0].ndcg - self._config.loss
            fit = [variety for variety, figure in figures.items() if figure.ndcg >= least]
            varieties.append(max(fit, key=lambda variety: figures[variety].coverage))
            before += [settings[0.0][i] for i in other]
            after += [settings[varieties[-1]][i] for i in other]
        change = compare(self._ndcgs(after), self._ndcgs(before), seed=self._config.seed)
        return {
            "varieties": varieties,
            "before": dataclasses.asdict(self._figures(before)),
            "after": dataclasses.asdict(self._figures(after)),
            "ndcg_difference": dataclasses.asdict(change),
        }

    def rules(self, rankings: Sequence[Ranking]) -> dict[str, Any]:
        """What the rules cost in nDCG, as means over queries, and how often one could not be kept."""
        rules = self._config.made_rules()
        costs = []
        conflicts: Counter[str] = Counter()
        moved = 0
        for ranking in rankings:
            judged = self._dataset.qrels.get(ranking.query_id, {})
            gains = {key: self._dataset.grades[grade].gain for key, grade in judged.items()}
            costs.append(rule_costs(ranking, rules, gains=gains, k=self._config.k))
            _, report = apply_rules(ranking, rules)
            conflicts.update({conflict.rule for conflict in report.conflicts})
            moved += report.moved > 0
        return {
            "before": _mean(cost.before for cost in costs),
            "after": _mean(cost.after for cost in costs),
            "alone": {name: _mean(cost.alone[name] for cost in costs) for name in costs[0].alone},
            "queries_changed": moved,
            "queries_with_conflict": dict(conflicts),
        }

    def _figures(self, rankings: Sequence[Ranking]) -> Figures:
        k = self._config.k
        run = {key: scores for ranking in rankings for key, scores in ranking.to_run().items()}
        varied = diversity(run, self._dataset.listings, self._dataset.qrels, self._relevant, k=k)
        orders = {ranking.query_id: [item.listing_id for item in ranking] for ranking in rankings}
        covered = coverage(orders, self.aspects, k)
        return Figures(_mean(self._ndcgs(rankings)), varied[f"alpha-nDCG@{k}"], covered or 0.0)

    def _ndcgs(self, rankings: Sequence[Ranking]) -> list[float]:
        run = {key: scores for ranking in rankings for key, scores in ranking.to_run().items()}
        candidates = {key: self._candidates[key] for key in run}
        measured = measure(run, candidates, self._dataset.qrels, self._dataset.grades, k=self._config.k)
        return list(measured.per_query[f"nDCG@{self._config.k}"].values())


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)


def print_tables(results: Mapping[str, Any], console: Console) -> None:
    """Print what `measure_variety` returned.

    Args:
        results: The results.
        console: Where to; one that is not a terminal gets lines of any length.
    """
    if not console.is_terminal:
        console.width = max(console.width, 160)
    k, aspect = results["settings"]["k"], results["settings"]["coverage"]
    measures = (f"nDCG@{k}", f"alpha-nDCG@{k}", f"{aspect} coverage@{k}")
    table = Table(title=f"{results['settings']['dataset']}, {results['queries']} queries")
    for name in ("system", "method", "variety", *measures):
        table.add_column(name, justify="left" if name in ("system", "method") else "right", no_wrap=True)
    for system, found in results["systems"].items():
        for method, one in found["knob"].items():
            rows = [(f"{row['variety']:g}", row) for row in one["settings"]]
            if chosen := one["chosen"]:
                change = chosen["ndcg_difference"]
                says = ", ".join(f"{variety:g}" for variety in chosen["varieties"])
                rows.append((f"chosen on the other half: {says}", chosen["after"]))
            for label, row in rows:
                table.add_row(system, method, label, *(f"{row[key]:.4f}" for key in ("ndcg", "alpha_ndcg", "coverage")))
            if chosen:
                low, high = change["low"], change["high"]
                gain = chosen["after"]["coverage"] / chosen["before"]["coverage"] - 1
                table.add_row(
                    "", "", "change", f"{change['difference']:+.4f} ({low:+.4f}, {high:+.4f})", "", f"{gain:+.1%}"
                )
            table.add_section()
    console.print(table)
    if not results["settings"]["rules"]:
        return
    table = Table(title="rules")
    for name in ("system", "rule", f"cost in nDCG@{k}", "queries where it could not be kept"):
        table.add_column(name, justify="left" if name in ("system", "rule") else "right", no_wrap=True)
    for system, found in results["systems"].items():
        rules = found["rules"]
        for name, cost in rules["alone"].items():
            table.add_row(system, name, f"{cost:+.4f}", str(rules["queries_with_conflict"].get(name, 0)))
        table.add_row(system, "all", f"{rules['before'] - rules['after']:+.4f}", "")
        table.add_section()
    console.print(table)


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Draw nDCG against alpha-nDCG and coverage, a line for each system and method, as one HTML file.

    Args:
        results: What `measure_variety` returned.
        path: The file.

    Raises:
        MissingExtraError: When plotly is not installed.
    """
    try:
        from plotly.colors import qualitative
        from plotly.subplots import make_subplots
    except ImportError:
        raise MissingExtraError("plotly", "eval") from None
    k, aspect = results["settings"]["k"], results["settings"]["coverage"]
    figure = make_subplots(cols=2, x_title=f"nDCG@{k}")
    lines = [
        (f"{system}, {method}", one["settings"])
        for system, found in results["systems"].items()
        for method, one in found["knob"].items()
    ]
    for i, (name, rows) in enumerate(lines):
        for column, key in ((1, "alpha_ndcg"), (2, "coverage")):
            figure.add_scatter(
                x=[row["ndcg"] for row in rows],
                y=[row[key] for row in rows],
                text=[f"variety {row['variety']:g}" for row in rows],
                mode="lines+markers",
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                line={"color": qualitative.Plotly[i % len(qualitative.Plotly)]},
                row=1,
                col=column,
            )
    figure.update_yaxes(title=f"alpha-nDCG@{k}", col=1)
    figure.update_yaxes(title=f"{aspect} coverage@{k}", col=2)
    figure.update_layout(title=f"{results['settings']['dataset']}, {results['queries']} queries")
    figure.write_html(path, include_plotlyjs=True)


if __name__ == "__main__":
    sys.exit(main())
