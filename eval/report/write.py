"""From a results folder to the three files of its report."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.report.content import report_content
from eval.report.results import read_results, results_folder
from genrank.data.dataset import Dataset
from genrank.errors import MissingExtraError

if TYPE_CHECKING:
    from jinja2 import Environment

_HERE = Path(__file__).parent
_MARKDOWN = re.compile(r"[\\`*_\[\]|~$]|^#|^[+\-=](?!\d)|(?<=^\d)[.)](?=\s)")


def write_report(folder: Path, dataset: Dataset | None, system: str | None = None) -> Path:
    """Write ``report.html``, ``report.md`` and ``report.json`` into a results folder.

    Args:
        folder: What `eval.run` wrote.
        dataset: The dataset, for texts and grades; None leaves them out, and the report says so.
        system: System whose worst and best queries are shown; None takes the best genrank system, else the best one.

    Returns:
        Path of the HTML file.

    Raises:
        InputError: When the folder holds no results, or no such system.
        DataFormatError: When a file of the folder is missing or broken.
        MissingExtraError: When jinja2 or plotly is not installed.
    """
    folder = results_folder(folder)
    content = report_content(folder, read_results(folder), dataset, system)
    for name, text in (
        ("report.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"),
        ("report.md", environment(markdown=True).get_template("page.md.jinja").render(content)),
        ("report.html", _html(content)),
    ):
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "report.html"


def _html(content: dict[str, Any]) -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise MissingExtraError("plotly", "eval") from None
    scripts = {"plotly": get_plotlyjs(), "script": script("page.js")}
    drawn = ("primary", "floor", "reference", "systems", "per_query")
    data = {key: content[key] for key in drawn}
    return (
        environment(markdown=False)
        .get_template("page.html.jinja")
        .render(content, style=style(), policy=policy(*scripts.values()), data=data, **scripts)
    )


def style() -> str:
    """The style sheet of all pages."""
    return (_HERE / "page.css").read_text(encoding="utf-8")


def script(name: str) -> str:
    """A script of this folder."""
    return (_HERE / name).read_text(encoding="utf-8")


def policy(*scripts: str) -> str:
    """A content security policy: these scripts run and no others, whatever a text holds; nothing is loaded."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src {allowed}"


def environment(*, markdown: bool) -> Environment:
    """The templates of this folder, with their filters.

    Args:
        markdown: Whether what is printed is escaped for markdown; otherwise it is for HTML.

    Raises:
        MissingExtraError: When jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise MissingExtraError("jinja2", "eval") from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=not markdown,
        finalize=_markdown_text if markdown else None,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": _number, "signed": _signed, "p": _p_value, "milliseconds": _milliseconds}
    return environment


def _markdown_text(value: object) -> object:
    """What a template prints, as text that markdown shows as it is."""
    return _MARKDOWN.sub(r"\\\g<0>", html.escape(value, quote=False)) if isinstance(value, str) else value


def _number(value: object) -> object:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def _p_value(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
