"""The HTTP gateway, ``genrank serve``: a reranker behind the rerank APIs of Cohere, Jina, Voyage, vLLM and TEI.

`genrank.server.app.create_app` makes the ASGI app; its routes only translate. `genrank.server.gateway.Gateway` is the
service behind them, without HTTP: cache, circuit breaker, batches, deadlines.
"""

from importlib.util import find_spec

from genrank.errors import MissingExtraError

for _package in ("fastapi", "uvicorn", "prometheus_client", "cachetools", "limits"):
    if find_spec(_package) is None:
        raise MissingExtraError(_package, "server")
