"""The files of the playground, as the browser gets them: nothing from elsewhere, and no inline script."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping

from fastapi import Response

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FOLDER = importlib.resources.files("genrank.server.playground") / "static"
_FILES = {f"/playground/{file.name}": file for file in _FOLDER.iterdir() if file.name != "index.html"}

FILES = {"/": _FOLDER / "index.html"} | _FILES
"""The files, by path."""

OPEN_PATHS = frozenset(FILES)
"""These need no key: a browser cannot send one with a page, and they are the same for everyone."""

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
"""The Content-Security-Policy. With the last two, the browser refuses text as markup even where a script tries it."""

_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def page(path: str) -> Response:
    """The response with a file.

    Args:
        path: One of `FILES`.
    """
    file = FILES[path]
    kind = _TYPES[file.name.rpartition(".")[2]]
    return Response(file.read_bytes(), media_type=kind, headers=dict(_HEADERS))
