"""``pointwise``: a prompt for each candidate, whose answer, yes or no, is read at its end (after arXiv 2003.06713).

A candidate's score depends neither on the other candidates nor on their order, so there are no windows, and one pass is
enough. With the listing before the query in the prompt (the template's `order`), everything up to the listing's end is
the same for every query: an engine that kept its keys and values reads only the query.
"""

from __future__ import annotations

from genrank.decoding.judgements import ask, read

__all__ = ["ask", "read"]
