"""OpenSearch as the first stage, for a catalogue that one machine no longer holds.

`OpenSearchIndex` takes the place of `genrank.search.index.Index` in a `genrank.search.pipeline.Pipeline`. It asks plain
OpenSearch (2.9 or later) for rankings by words (BM25) and, with an encoder, by vectors (k-NN), all in one request, and
fuses them here as the index does, so the server needs no search pipeline, and no plug-in that it does not ship with.
Words are cut by OpenSearch's own filters: English without plural endings, Chinese and Japanese into single characters
and pairs.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from genrank.errors import ConfigError, EngineError, GenrankError, InputError, MissingExtraError, shown
from genrank.inputs import items, make_listings, make_query, whole_number
from genrank.search.bm25 import FIELDS
from genrank.search.dense import TextEncoder, encoded_text
from genrank.search.filters import Filters, value_parts
from genrank.search.fusion import reciprocal_rank_fusion
from genrank.search.pipeline import filters_with, raising_filters, searched_text
from genrank.search.understanding import Intent
from genrank.search.vectors import EncodeTexts, ListingEncoder
from genrank.types import Candidate, Listing, Query, make_listing

try:
    import opensearchpy
    from opensearchpy import exceptions, helpers
except ImportError:
    raise MissingExtraError("opensearch-py", "opensearch") from None

FORMAT = 1
"""Version of the mapping."""

MOST_CHARACTERS = 200
"""What comes after so many characters of a query is not searched for: OpenSearch takes 1,024 clauses."""

MOST_CANDIDATES = 10_000
"""The most that OpenSearch gives in one answer."""

_AT_ONCE = 500
_LEAST_DEPTH = 100  # of each ranking that is fused
_LONGEST_KEYWORD = 8_000  # characters; Lucene takes 32,766 bytes
_RETRIES = 3  # of what a busy server put off
_WRONG_MAPPING = "make the index again with OpenSearchIndex.create, and add the listings"


def index_body(
    dimension: int | None = None, encoder: str = "", *, shards: int = 1, replicas: int = 1
) -> dict[str, Any]:
    """Settings and mapping of an index, as OpenSearch takes them.

    Args:
        dimension: Numbers of a vector; None for an index of words alone.
        encoder: Fingerprint of what makes the vectors.
        shards: Primary shards.
        replicas: Copies of each.
    """
    text = {"type": "text", "analyzer": "genrank", "search_analyzer": "genrank_query"}
    keyword = {"type": "keyword", "ignore_above": _LONGEST_KEYWORD}
    properties: dict[str, Any] = {
        "title": text,
        "description": text,
        "brand": text | {"fields": {"exact": keyword}},
        "category": text,
        "category_path": keyword,  # JSON of the path's beginnings: ["Women"], ["Women", "Dresses"]
        "attributes": text,
        "attribute_value": keyword,  # JSON of name and value: ["colour", "red"]
        "price": {"type": "double"},
        "currency": keyword,
        "in_stock": {"type": "boolean"},
        "seller_id": keyword,
        "listing": {"type": "object", "enabled": False},
    }
    if dimension is not None:
        method = {"name": "hnsw", "engine": "lucene", "space_type": "cosinesimil"}
        properties["vector"] = {"type": "knn_vector", "dimension": dimension, "method": method}
    cut = ["cjk_width", "lowercase", "genrank_plural"]
    return {
        "settings": {
            "index": {"number_of_shards": shards, "number_of_replicas": replicas, "knn": dimension is not None},
            "analysis": {
                "filter": {
                    "genrank_plural": {"type": "stemmer", "language": "minimal_english"},
                    "genrank_pairs": {"type": "cjk_bigram", "output_unigrams": True},
                },
                "analyzer": {
                    "genrank": {"type": "custom", "tokenizer": "standard", "filter": [*cut, "genrank_pairs"]},
                    # a pair finds more exactly; a single character is looked for where it stands alone
                    "genrank_query": {"type": "custom", "tokenizer": "standard", "filter": [*cut, "cjk_bigram"]},
                },
            },
        },
        "mappings": {
            "dynamic": "strict",
            "_meta": {"genrank": {"format": FORMAT, "encoder": encoder, "dimension": dimension}},
            "properties": properties,
        },
    }


class OpenSearchIndex:
    """A catalogue in OpenSearch, and the ``match`` of a `genrank.search.pipeline.Pipeline`; see the module's text.

    Make one with `OpenSearchIndex.create` or `OpenSearchIndex.open`. Threads may share one.

    Attributes:
        name: Of the index, or of an alias of it.
        encoded_by: Fingerprint of the encoder that made the vectors; empty for an index without vectors.
    """

    def __init__(
        self, client: opensearchpy.OpenSearch, name: str, encoder: ListingEncoder | None, encoded_by: str
    ) -> None:
        """Use `OpenSearchIndex.create` or `OpenSearchIndex.open`."""
        self.name = name
        self.encoded_by = encoded_by
        self._client = client
        self._encoder = encoder

    @classmethod
    def create(
        cls,
        client: opensearchpy.OpenSearch,
        name: str,
        *,
        encoder: TextEncoder | EncodeTexts | None = None,
        shards: int = 1,
        replicas: int = 1,
    ) -> OpenSearchIndex:
        """Make an empty index.

        Args:
            client: The official client, with the server's address, user and time limits.
            name: Of the index.
            encoder: What turns texts into vectors; see `genrank.search.index.Index.create`. None for words alone.
            shards: Primary shards.
            replicas: Copies of each.

        Raises:
            InputError: When there is an index of that name, or an argument is wrong.
            ConfigError: When the server refuses the client, or the mapping.
            EngineError: When the server cannot be reached, or fails.
            ModelError: When the encoder fails.
        """
        whole_number("shards", shards, at_least=1)
        whole_number("replicas", replicas, at_least=0)
        wrapped = ListingEncoder(encoder) if encoder is not None else None
        dimension = wrapped.encode(["dress"]).shape[1] if wrapped else None
        encoded_by = wrapped.fingerprint if wrapped else ""
        with _reporting(name):
            client.indices.create(index=name, body=index_body(dimension, encoded_by, shards=shards, replicas=replicas))
        return cls(client, name, wrapped, encoded_by)

    @classmethod
    def open(
        cls, client: opensearchpy.OpenSearch, name: str, *, encoder: TextEncoder | EncodeTexts | None = None
    ) -> OpenSearchIndex:
        """Open an index that `create` made.

        Args:
            client: See `create`.
            name: Of the index, or of an alias of it.
            encoder: The encoder that it was made with. Without it, an index with vectors is searched by words alone,
                and nothing can be added.

        Raises:
            InputError: When there is none of that name.
            ConfigError: When it is not genrank's, or its vectors are another encoder's; or the server refuses the
                client.
            EngineError: When the server cannot be reached, or fails.
        """
        wrapped = ListingEncoder(encoder) if encoder is not None else None
        with _reporting(name):
            found = client.indices.get_mapping(index=name)
        encoded_by = ""
        for actual, told in found.items():
            stamp = told.get("mappings", {}).get("_meta", {}).get("genrank")
            if not isinstance(stamp, dict) or stamp.get("format") != FORMAT:
                raise ConfigError(f"the index {actual} does not have genrank's mapping; {_WRONG_MAPPING}")
            encoded_by = stamp.get("encoder", "")
            if wrapped is not None and wrapped.fingerprint != encoded_by:
                holds = f"the vectors of {encoded_by}" if encoded_by else "no vectors"
                raise ConfigError(
                    f"the index {actual} holds {holds}, and the encoder is {wrapped.fingerprint}; open it with the "
                    "encoder that it was made with, or make it again with this one"
                )
        return cls(client, name, wrapped, encoded_by)

    def add(self, listings: Iterable[Listing | Mapping[str, Any]]) -> int:
        """Insert listings, or replace those with the same ids.

        Searches find them once OpenSearch has refreshed the index, by default within a second; see `refresh`. After an
        error, those before it may be there: add them again.

        Args:
            listings: Any number; they are sent 500 at a time.

        Returns:
            How many were sent.

        Raises:
            InputError: When a listing is wrong.
            ConfigError: When the index has another mapping, or was opened without its encoder.
            EngineError: When the server cannot be reached, or fails.
            ModelError: When the encoder fails.
        """
        if self.encoded_by and self._encoder is None:
            raise ConfigError(f"{self.name} holds vectors of {self.encoded_by}; open it with that encoder to add to it")
        given = list(items(listings, "listings", "listings"))
        for i, one in enumerate(given):
            if isinstance(one, str):
                raise InputError(f"must be a Listing or dict, got the text {shown(one)}", field=f"listings[{i}]")
        made = make_listings(given)
        for start in range(0, len(made), _AT_ONCE):
            batch = made[start : start + _AT_ONCE]
            vectors: Sequence[Any] = [None] * len(batch)
            if self._encoder is not None:
                vectors = list(self._encoder.encode([encoded_text(listing) for listing in batch]))
            self._bulk(
                {"_op_type": "index", "_index": self.name, "_id": one.listing_id, "_source": document(one, vector)}
                for one, vector in zip(batch, vectors, strict=True)
            )
        return len(made)

    def remove(self, listing_ids: Iterable[str]) -> None:
        """Remove listings; ids that are not in the index are passed over.

        Raises:
            EngineError: When the server cannot be reached, or fails.
        """
        if isinstance(listing_ids, str):
            raise InputError(f"must be a list of ids, got the text {shown(listing_ids)}", field="listing_ids")
        self._bulk({"_op_type": "delete", "_index": self.name, "_id": one} for one in listing_ids)

    def refresh(self) -> None:
        """Have searches find what was added and removed so far.

        Raises:
            EngineError: When the server cannot be reached, or fails.
        """
        with _reporting(self.name):
            self._client.indices.refresh(index=self.name)

    def __call__(
        self, query: Query | str, intent: Intent | None = None, filters: Filters | None = None, count: int = 100
    ) -> list[Candidate]:
        """Find candidates, as `genrank.search.pipeline.match` does in an index.

        Args:
            query: What the shopper typed.
            intent: What it means, if it was read.
            filters: Conditions that each candidate meets, whatever the query says.
            count: Greatest number of candidates, up to `MOST_CANDIDATES`.

        Returns:
            Candidates, best first, with the score and the 1-based rank. Where there is one ranking only, the score is
            OpenSearch's, else that of `reciprocal_rank_fusion`.

        Raises:
            InputError: When an argument is wrong, or the index is gone.
            ConfigError: When the index has another mapping, or the server refuses the client.
            EngineError: When the server cannot be reached, or fails.
        """
        text = make_query(query).text
        text = (text if intent is None else searched_text(text, intent))[:MOST_CHARACTERS]
        if whole_number("count", count, at_least=1) > MOST_CANDIDATES:
            raise InputError(f"must be at most {MOST_CANDIDATES:,}, got {count}", field="count")
        filters = filters or Filters()
        vector = self._encoder.encode([text], queries=True)[0].tolist() if self._encoder is not None else None
        strict = filters if intent is None else filters_with(filters, intent)
        found = self._search(text, vector, self._ways(strict, intent), count)
        if not found and strict != filters:  # nothing meets the query's price, brand and exclusions
            found = self._search(text, vector, self._ways(filters, intent), count)
        return found

    @staticmethod
    def _ways(strict: Filters, intent: Intent | None) -> list[Filters]:
        """The filters of each ranking: that of all candidates, and those that raise some of them."""
        return [strict, *(raising_filters(intent, strict) if intent is not None else ())]

    def _search(self, text: str, vector: list[float] | None, ways: Sequence[Filters], count: int) -> list[Candidate]:
        """The fused rankings of several filters; nothing where the first one's is empty."""
        depth = count if vector is None else min(MOST_CANDIDATES, max(count, _LEAST_DEPTH))
        bodies = []
        for filters in ways:
            conditions = _conditions(filters)
            bodies.append(_by_text(text, conditions, depth))
            if vector is not None:
                bodies.append(_by_vector(vector, conditions, depth))
        listings: dict[str, Listing] = {}
        rankings = [self._ranking(answer, listings) for answer in self._answers(bodies)]
        if vector is not None:
            pairs = zip(rankings[::2], rankings[1::2], strict=True)
            rankings = [dict(list(reciprocal_rank_fusion(pair).items())[:count]) for pair in pairs]
        if not rankings[0]:
            return []
        scores = rankings[0] if len(rankings) == 1 else reciprocal_rank_fusion(rankings)
        best = list(scores.items())[:count]
        return [Candidate(listings[one], score=score, rank=rank) for rank, (one, score) in enumerate(best, start=1)]

    def _answers(self, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        # an answer without some of the shards would lack listings, and nobody would notice
        lines = [line for body in bodies for line in ({"allow_partial_search_results": False}, body)]
        with _reporting(self.name):
            answers: list[dict[str, Any]] = self._client.msearch(body=lines, index=self.name)["responses"]
        for answer in answers:
            if "error" in answer:
                _refuse(self.name, answer.get("status", 500), answer["error"])
        return answers

    def _ranking(self, answer: Mapping[str, Any], listings: dict[str, Listing]) -> dict[str, float]:
        scores = {}
        for hit in answer["hits"]["hits"]:
            name = hit["_id"]
            if name not in listings:
                try:
                    listings[name] = make_listing(hit["_source"]["listing"])
                except (KeyError, TypeError, GenrankError) as error:
                    raise ConfigError(f"{self.name}/{name} holds no listing ({error}); {_WRONG_MAPPING}") from None
            scores[name] = float(hit["_score"])
        return scores

    def _bulk(self, actions: Iterable[dict[str, Any]]) -> None:
        with _reporting(self.name):
            written = helpers.streaming_bulk(
                self._client, actions, chunk_size=_AT_ONCE, max_retries=_RETRIES, raise_on_error=False
            )
            for well, told in written:
                ((kind, item),) = told.items()
                if not well and not (kind == "delete" and item.get("status") == 404 and "error" not in item):
                    _refuse(f"{self.name}/{item.get('_id')}", item.get("status", 500), item.get("error"))


def document(listing: Listing, vector: Any = None) -> dict[str, Any]:
    """A listing as OpenSearch keeps it.

    Args:
        listing: The listing.
        vector: ``[d]`` of length 1, or None. One of zeros has no direction, and is left out.
    """
    found: dict[str, Any] = {
        "title": listing.title,
        "description": listing.description,
        "brand": listing.brand,
        "category": " / ".join(listing.category),
        "category_path": [_json(listing.category[: end + 1]) for end in range(len(listing.category))],
        "attributes": " / ".join(f"{name} {value}" for name, value in listing.attributes.items()),
        "attribute_value": [
            _json((name, part))
            for name, value in listing.attributes.items()
            for part in dict.fromkeys((value, *value_parts(value)))
        ],
        "currency": listing.price.currency if listing.price else "",
        "seller_id": listing.seller_id,
        "listing": listing.to_dict(),
    }
    found = {name: value for name, value in found.items() if value}
    if listing.price is not None:
        found["price"] = listing.price.amount
    if listing.in_stock is not None:
        found["in_stock"] = listing.in_stock
    if vector is not None and vector.any():
        found["vector"] = vector.tolist()
    return found


def _by_text(text: str, conditions: dict[str, Any], depth: int) -> dict[str, Any]:
    return _body({"bool": {"must": [_words(text, "or")], **conditions}}, depth)


def _by_vector(vector: list[float], conditions: dict[str, Any], depth: int) -> dict[str, Any]:
    near: dict[str, Any] = {"vector": vector, "k": depth}
    if conditions:
        near["filter"] = {"bool": conditions}
    return _body({"knn": {"vector": near}}, depth)


def _body(query: dict[str, Any], depth: int) -> dict[str, Any]:
    return {"query": query, "size": depth, "_source": ["listing"], "track_total_hits": False}


def _words(text: str, operator: str) -> dict[str, Any]:
    """Words of a text in any of the fields, which count as one."""
    return {"multi_match": {"query": text, "type": "cross_fields", "operator": operator, "fields": list(FIELDS)}}


def _conditions(filters: Filters) -> dict[str, Any]:
    """Filters as parts of a ``bool`` query; those that are not asked are left out."""
    price = {"gte": filters.price_min, "lte": filters.price_max}
    terms = {
        "currency": filters.currency,
        "brand.exact": filters.brand,
        "in_stock": filters.in_stock,
        "seller_id": filters.seller_id,
        "category_path": _json(filters.category) if filters.category else None,
    }
    must: list[dict[str, Any]] = []
    if asked := {name: amount for name, amount in price.items() if amount is not None}:
        must.append({"range": {"price": asked}})
    must += [{"term": {name: value}} for name, value in terms.items() if value is not None]
    must += [{"term": {"attribute_value": _json(pair)}} for pair in filters.attributes.items()]
    must_not = [_words(text, "and") for text in filters.without_words]
    if filters.without_ids:
        must_not.append({"ids": {"values": sorted(filters.without_ids)}})
    return {name: some for name, some in (("filter", must), ("must_not", must_not)) if some}


def _json(parts: Sequence[str]) -> str:
    return json.dumps(list(parts), ensure_ascii=False)


@contextlib.contextmanager
def _reporting(name: str) -> Iterator[None]:
    """Turn the client's errors into those that are documented."""
    try:
        yield
    except exceptions.ConnectionError as error:
        raise EngineError(
            f"OpenSearch cannot be reached: {error.error}; is it running, at the client's address?"
        ) from None
    except exceptions.TransportError as error:
        told = error.info.get("error") if isinstance(error.info, dict) else None
        _refuse(name, error.status_code, told or str(error.error))
    except exceptions.OpenSearchException as error:
        raise EngineError(f"OpenSearch's answer cannot be read: {error}") from None


def _refuse(name: str, status: object, error: object) -> NoReturn:
    """Raise the error that an answer of the server stands for.

    Args:
        name: Of the index, or of a document in it.
        status: The HTTP status.
        error: What the server said: its object with ``type`` and ``reason``, or text.
    """
    kind = str(error.get("type", "")) if isinstance(error, dict) else str(error)
    reason = str(error.get("reason", kind)) if isinstance(error, dict) else str(error)
    if "index_not_found" in kind:
        raise InputError(f"no index {name} in OpenSearch; make it with OpenSearchIndex.create", field="name") from None
    if "resource_already_exists" in kind:
        raise InputError(f"OpenSearch has an index {name} already; open it, or delete it", field="name") from None
    if status in (401, 403):
        raise ConfigError(f"OpenSearch refuses the client ({status}): {reason}; check its user and rights") from None
    if status == 400:
        raise ConfigError(
            f"OpenSearch refuses {name}: {reason}; if the index is not genrank's, {_WRONG_MAPPING}"
        ) from None
    raise EngineError(f"OpenSearch failed at {name} ({status}): {reason}") from None
