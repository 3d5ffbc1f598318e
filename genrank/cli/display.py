"""Shows a ranking as a table for the terminal."""

from __future__ import annotations

from genrank.cli.console import Cell, Table
from genrank.text.clean import clean
from genrank.types import Ranking, Request

_MAX_REPAIRS_SHOWN = 3


def ranking_table(request: Request, ranking: Ranking, line: int | None = None) -> Table:
    """A ranking as a table: rank, places moved, title, score, and the reason where there is one.

    Args:
        request: The request, for the titles.
        ranking: The answer.
        line: The request's line number, 1-based; None leaves it out.
    """
    titles = {candidate.listing.listing_id: candidate.listing.title for candidate in request.candidates}
    with_reasons = any(item.reason for item in ranking.items)
    rows = []
    for item in ranking.items:
        title = clean(titles.get(item.listing_id, item.listing_id))
        row = [Cell(str(item.rank)), moved(item.source_rank - item.rank), Cell(title), Cell(f"{item.score:.3f}")]
        rows.append([*row, Cell(clean(item.reason or ""))] if with_reasons else row)
    return Table(
        columns=("rank", "moved", "title", "score", *(["reason"] if with_reasons else [])),
        rows=rows,
        title=clean(request.query.text) + ("" if line is None else f" (line {line})"),
        caption=caption(ranking),
        numbers=frozenset({"rank", "moved", "score"}),
        whole=frozenset({"rank", "moved", "score"}),
    )


def caption(ranking: Ranking) -> list[Cell]:
    """One line on how the ranking was made, then lines on what went wrong."""
    source = ranking.provenance
    seconds = source.seconds
    time = f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
    stages = " · ".join(f"{one.decoding} · {one.prompt}" for one in (source, source.then) if one)
    outcome = f"{source.outcome}: {source.stand_in}" if source.stand_in else source.outcome
    line = f"{source.model} · {stages} · {outcome} · {time}"
    lines = [Cell(line)]
    if source.why:
        lines.append(Cell(clean(source.why), "red"))
    lines += [Cell(clean(repair), "yellow") for repair in source.repairs[:_MAX_REPAIRS_SHOWN]]
    if len(source.repairs) > _MAX_REPAIRS_SHOWN:
        lines.append(Cell(f"… and {len(source.repairs) - _MAX_REPAIRS_SHOWN} more", "yellow"))
    return lines


def moved(places: int) -> Cell:
    """Places moved, as an arrow and a number: up for a positive one."""
    if places == 0:
        return Cell("=", "dim")
    return Cell(f"↑{places}", "green") if places > 0 else Cell(f"↓{-places}", "red")
