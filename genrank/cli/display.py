"""Rankings for people: a table for the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from genrank.text.clean import clean
from genrank.types import Ranking, Request

_MAX_REPAIRS_SHOWN = 3


def ranking_table(request: Request, ranking: Ranking) -> Table:
    """A ranking as a table: rank, places moved, title, score, and the reason where there is one.

    Args:
        request: What was asked, for the titles.
        ranking: The answer.
    """
    titles = {candidate.listing.listing_id: candidate.listing.title for candidate in request.candidates}
    # Text, not str: a listing's text is data, and must not be read as rich's markup
    table = Table(title=Text(clean(request.query.text), style="bold"), title_justify="left", expand=False)
    table.add_column("rank", justify="right")
    table.add_column("moved", justify="right")
    table.add_column("title", overflow="fold", max_width=60)
    table.add_column("score", justify="right")
    with_reasons = any(item.reason for item in ranking.items)
    if with_reasons:
        table.add_column("reason", overflow="fold", max_width=60)
    for item in ranking.items:
        row: list[str | Text] = [str(item.rank), moved(item.source_rank - item.rank)]
        row += [Text(clean(titles.get(item.listing_id, item.listing_id))), f"{item.score:.3f}"]
        if with_reasons:
            row.append(Text(clean(item.reason or "")))
        table.add_row(*row)
    table.caption = caption(ranking)
    table.caption_justify = "left"
    return table


def caption(ranking: Ranking) -> Text:
    """Where a ranking came from, in one line, and what went wrong in the next ones."""
    source = ranking.provenance
    line = f"{source.model} · {source.decoding} · {source.prompt} · {source.outcome} · {source.seconds:.2f} s"
    text = Text(line)
    if source.why:
        text.append(f"\n{clean(source.why)}", style="red")
    for repair in source.repairs[:_MAX_REPAIRS_SHOWN]:
        text.append(f"\n{clean(repair)}", style="yellow")
    if len(source.repairs) > _MAX_REPAIRS_SHOWN:
        text.append(f"\n… and {len(source.repairs) - _MAX_REPAIRS_SHOWN} more", style="yellow")
    return text


def moved(places: int) -> Text:
    """Places moved, as an arrow and a number: up for a positive one."""
    if places == 0:
        return Text("=", style="dim")
    return Text(f"↑{places}", style="green") if places > 0 else Text(f"↓{-places}", style="red")
