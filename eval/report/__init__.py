"""The report of a results folder: ``report.html`` (one file, nothing from the network), ``report.md``, ``report.json``.

::

    python -m eval.report runs/NAME [--dataset FOLDER|sample-shop] [--system NAME]

`results` reads the folder, `content` builds the report as plain data, and the ``page.*`` files lay it out. All three
files hold the same content, but only the HTML draws the plots.
"""

from __future__ import annotations

from eval.report.write import write_report

__all__ = ["write_report"]
