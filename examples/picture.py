"""Draws one reranking as an SVG: ``python -m examples.picture --out docs/reranking.svg``.

The model really ranks a query of the sample shop. The first stage's order is on the left, the model's with its reasons
on the right. Dots are the human grades, from none to three.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from unicodedata import east_asian_width
from xml.sax.saxutils import escape

from genrank import GenrankError, Ranking, Request, Reranker, sample_shop
from genrank.adapters import demo_adapter
from genrank.models.registry import DEFAULT_MODEL

ROWS = 6
REASONS = 3
WIDTH, ROW, HEAD, FOOT = 900, 64, 104, 34
LEFT, RIGHT, COLUMN = 20, 480, 400
MOST = 44  # characters of a title that fit into its column
MOST_OF_REASON = 54  # characters of a line of a reason
STYLE = """
    .card { fill: #ffffff; stroke: #d0d7de }  .row { fill: #f6f8fa }
    text { font: 13px system-ui, "Noto Sans CJK SC", sans-serif; fill: #1f2328 }
    .query { font-size: 18px; font-weight: 600 }  .head { font-weight: 600 }
    .quiet, .reason { fill: #59636e; font-size: 12px }  .reason { font-style: italic }
    .up { fill: #116329 }  .dot { fill: #1a7f37 }  .dot.off { fill: #d0d7de }
    .line { fill: none; stroke: #b7bfc8; stroke-width: 1.5 }  .line.up { stroke: #1a7f37; stroke-width: 2 }
    @media (prefers-color-scheme: dark) {
      .card { fill: #0d1117; stroke: #3d444d }  .row { fill: #161b22 }
      text { fill: #f0f6fc }  .quiet, .reason { fill: #9198a1 }
      .up { fill: #3fb950 }  .dot { fill: #3fb950 }  .dot.off { fill: #3d444d }
      .line { stroke: #59636e }  .line.up { stroke: #3fb950 }
    }
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/reranking.svg"))
    parser.add_argument("--model", default=DEFAULT_MODEL, help="known name, local folder or hub name (%(default)s)")
    parser.add_argument("--query-id", default="q-en-19", help="a query of the sample shop (%(default)s)")
    arguments = parser.parse_args()
    shop = sample_shop()
    requests = {query.query.query_id: shop.request(query) for query in shop.queries}
    if arguments.query_id not in requests:
        parser.error(f"--query-id: must be one of {', '.join(requests)}, got {arguments.query_id}")
    request = requests[arguments.query_id]
    try:
        adapter = demo_adapter(arguments.model)
        reranker = Reranker(arguments.model, adapter=str(adapter) if adapter else None)
        ranking = reranker.rerank_batch([request], reasons=REASONS)[0]
    except GenrankError as error:
        print(f"picture: {error}", file=sys.stderr)
        return 1
    arguments.out.write_text(draw(request, ranking, shop.qrels[arguments.query_id]), encoding="utf-8", newline="\n")
    print(arguments.out)
    return 0


def draw(request: Request, ranking: Ranking, grades: Mapping[str, int]) -> str:
    """The picture of a ranking as SVG.

    Args:
        request: What was asked; its candidates are the first stage's order.
        ranking: The answer.
        grades: ``{listing_id: grade}``, 0 to 3.

    Returns:
        An SVG that depends on nothing but the arguments.
    """
    shown = min(ROWS, len(ranking))
    height = HEAD + shown * ROW + FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(request.query.text)}: the first stage's order and genrank's</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
        _text(LEFT, 32, f"“{request.query.text}”", "query"),
        _text(LEFT, 54, _past(request), "quiet"),
        _text(LEFT, 88, "first stage", "head"),
        _text(RIGHT, 88, "genrank", "head"),
    ]
    for place, (candidate, item) in enumerate(zip(request.candidates, ranking[:shown], strict=False)):
        top = HEAD + place * ROW
        rise = item.source_rank - item.rank
        start = HEAD + (min(item.source_rank, shown + 1) - 1) * ROW + (ROW - 6) // 2
        kind = "line up" if rise > 0 else "line"
        x0, x1, y = LEFT + COLUMN, RIGHT, top + (ROW - 6) // 2
        parts += [
            f'<path class="{kind}" d="M{x0} {start} C{x0 + 30} {start} {x1 - 30} {y} {x1} {y}"/>',
            *_row(LEFT, top, place + 1, candidate.listing.title, grades[candidate.listing.listing_id]),
            *_row(RIGHT, top, item.rank, item.listing.title, grades[item.listing_id]),
            *(_text(RIGHT + 34, top + 36 + 15 * i, line, "reason") for i, line in enumerate(_lines(item.reason or ""))),
            _text(RIGHT + COLUMN - 12, top + ROW - 13, _moved(rise), "quiet up" if rise > 0 else "quiet", anchor="end"),
        ]
    rest = len(ranking) - shown
    source = ranking.provenance
    parts += [
        _text(LEFT + 34, height - 14, f"… and {rest} more" if rest else "", "quiet"),
        _text(RIGHT, height - 14, f"{source.model}, {source.decoding}. Dots: how well a person said it fits.", "quiet"),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _row(x: int, top: int, rank: int, title: str, grade: int) -> list[str]:
    dots = [
        f'<circle class="{"dot" if place < grade else "dot off"}" cx="{x + COLUMN - 42 + 15 * place}" '
        f'cy="{top + 16}" r="4"/>'
        for place in range(3)
    ]
    return [
        f'<rect class="row" x="{x}" y="{top}" width="{COLUMN}" height="{ROW - 6}" rx="6"/>',
        _text(x + 10, top + 20, str(rank), "head"),
        _text(x + 34, top + 20, _shorten(title), ""),
        *dots,
    ]


def _text(x: int, y: int, words: str, kind: str, *, anchor: str = "start") -> str:
    if not words:
        return ""
    attributes = f' class="{kind}"' if kind else ""
    attributes += f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x}" y="{y}"{attributes}>{escape(words)}</text>'


def _past(request: Request) -> str:
    events = [f"{interaction.event}: {interaction.listing.title}" for interaction in request.history]
    return "the shopper's history — " + ", ".join(events) if events else "no history"


def _moved(rise: int) -> str:
    return "" if not rise else f"up {rise}" if rise > 0 else f"down {-rise}"


def _shorten(words: str, most: int = MOST) -> str:
    """The words, cut to the width of so many characters."""
    end = _fitting(words, most)
    return words if end == len(words) else words[: end - 1].rstrip() + "…"


def _lines(reason: str) -> list[str]:
    """The reason on one line or two, broken between words if it has spaces."""
    end = _fitting(reason, MOST_OF_REASON)
    if end == len(reason):
        return [reason]
    end = reason.rfind(" ", 0, end + 1) if " " in reason[: end + 1] else end
    return [reason[:end], _shorten(reason[end:].lstrip(), MOST_OF_REASON - 8)]  # the second one ends before the move


def _fitting(words: str, most: int) -> int:
    """How many characters fit into the width of `most`; a Chinese one is as wide as two others."""
    for place, character in enumerate(words):
        most -= 2 if east_asian_width(character) in "WF" else 1
        if most < 0:
            return place
    return len(words)


if __name__ == "__main__":
    sys.exit(main())
