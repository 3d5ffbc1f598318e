"""The picture of a trained ranker's feature importance."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from genrank.errors import MissingExtraError
from genrank.rankers.features import FEATURES, GROUPS

_SHOWN = 30


def plot_importance(importance: Mapping[str, float], path: str | Path, title: str) -> None:
    """Draw the features with the biggest share of the gain as bars, coloured by group, as SVG.

    Args:
        importance: Share of the gain by feature, biggest first.
        path: The file.
        title: Text above the bars.

    Raises:
        MissingExtraError: When matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError:
        raise MissingExtraError("matplotlib", "baseline") from None
    group_of = {name: group for group, names in FEATURES.items() for name in names}
    shown = [name for name, share in importance.items() if share > 0][:_SHOWN]
    colour = {group: mpl.color_sequences["tab10"][i] for i, group in enumerate(GROUPS)}
    figure = Figure(figsize=(8, 1.5 + 0.24 * max(len(shown), 4)), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.barh(shown, [importance[name] for name in shown], color=[colour[group_of[name]] for name in shown])
    axes.invert_yaxis()
    axes.set_xlabel("share of the gain of all splits")
    axes.set_title(title, parse_math=False)
    groups = [group for group in GROUPS if any(group_of[name] == group for name in shown)]
    if groups:
        handles = [Patch(color=colour[group], label=group.replace("_", " ")) for group in groups]
        axes.legend(handles=handles, loc="lower right")  # the bars are short there
    # text stays text: the reader may have fonts that matplotlib lacks and would warn about
    with mpl.rc_context({"svg.hashsalt": "genrank", "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(path, metadata={"Date": None})
