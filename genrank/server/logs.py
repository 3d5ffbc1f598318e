"""Logs as JSON, a line for each event; no texts, histories, keys, paths or stacks.

Only the fields that a caller names are logged, never a request or an exception's message. What other libraries log is
reduced to their logger, level and, below an exception, its type.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

LOGGER = logging.getLogger("genrank.server")
_FIELDS = "genrank_fields"
_OURS = ("genrank.server", "uvicorn.error")  # whose words are known to be harmless


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        failed = record.exc_info[0] if record.exc_info else None
        if record.name in _OURS and failed is None:
            line["event"] = record.getMessage()
        if failed is not None:
            line["error"] = failed.__name__
        return json.dumps(line | getattr(record, _FIELDS, {}), ensure_ascii=False)


def log(level: int, event: str, **fields: Any) -> None:
    """Log an event with some fields; those that are None are left out."""
    if LOGGER.isEnabledFor(level):
        known = {name: value for name, value in fields.items() if value is not None}
        LOGGER.log(level, "%s", event, extra={_FIELDS: known})


def set_up(level: str) -> None:
    """Send every log of this process to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())
