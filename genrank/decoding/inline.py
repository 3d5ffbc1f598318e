"""``inline``: after each candidate the prompt asks whether it fits, and the model's yes/no log-odds are read there.

It takes one forward pass, generates nothing, and ranks as many candidates as the context holds. Each candidate is
judged in view of the ones before it. jina-reranker-v3 (arXiv 2509.25085) also reads one causal pass at each candidate's
own position, but reads embeddings; here the language model's head answers.
"""

from __future__ import annotations

from genrank.decoding.judgements import ask, read

__all__ = ["ask", "read"]
