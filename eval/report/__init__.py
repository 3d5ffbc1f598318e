"""The report of a results folder: ``report.html`` (one file, nothing from the network), ``report.md``, ``report.json``.

::

    python -m eval.report runs/NAME [--dataset FOLDER|sample-shop] [--system NAME]

`results` reads the folder, `content` says what the report says, as plain data, and the ``page.*`` files beside it lay
that out. The three twins hold the same content; only the plots are drawn in the HTML alone.
"""

from __future__ import annotations

from eval.report.write import write_report

__all__ = ["write_report"]
