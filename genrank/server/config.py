"""The gateway's configuration: one TOML file, the flags and the environment, with all problems reported at once."""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import limits
import pydantic
from pydantic import Field, SecretStr, field_validator, model_validator

from genrank.errors import ConfigError, GenrankError, MissingExtraError, first_problem
from genrank.experiment.config import Strict
from genrank.files import read_text
from genrank.pictures import Pictures
from genrank.reranker import is_address
from genrank.server.privacy import check_mask
from genrank.types import Combine, Decoding, Dtype, Strategy

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.:/-]*$")]

KEYS_VARIABLE = "GENRANK_API_KEYS"
REDIS_VARIABLE = "GENRANK_REDIS_URL"
_SHORTEST_KEY = 8  # characters
_PICTURES = Pictures()


class ServerConfig(Strict):
    """Where it listens, and how long things may take.

    Attributes:
        host: Address to listen on.
        port: 0 takes a free one.
        deadline: Seconds from a request's arrival to its answer.
        when_down: What a request gets that the model could not rank at all: the ``answer`` of the fallback or the first
            stage's order, with status 200, or ``refuse``, status 503.
        shutdown: Seconds that running requests have to finish after the signal to stop.
        playground: Whether there is a page at ``/`` to try rankings with. It shows prompts, and its files need no key.
            None is yes on an address that only this machine can reach, and no on any other.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    deadline: Seconds = 30.0
    when_down: Literal["answer", "refuse"] = "answer"
    shutdown: Seconds = 30.0
    playground: bool | None = None

    @property
    def has_playground(self) -> bool:
        """Whether there is a playground."""
        return _only_here(self.host) if self.playground is None else self.playground


class ModelConfig(Strict):
    """The reranker. The settings that are not described here are those of `genrank.Reranker`.

    Attributes:
        name: What clients call it; by default the last part of the model's or the adapter's name.
        aliases: Other names that clients may use, such as one that is fixed in a client.
        instructions: What becomes of a request's ``instruction``: ``refuse`` (422), since no prompt that ships has a
            place for one, or ``query``, which adds it to the query in parentheses.
        snapshot: Listings that ``genrank warm`` read beforehand.
        fallback: Folder of a trained BERT + GBDT ranker, which orders what the model does not.
        then: Decoding of a second stage, see `genrank.Cascade`.
        then_top: How many items the second stage ranks again.
        then_scores: What becomes of their scores.
    """

    name: Name | None = None
    aliases: tuple[Name, ...] = ()
    instructions: Literal["refuse", "query"] = "refuse"
    snapshot: str | None = None
    fallback: str | None = None
    model: str | None = None
    adapter: str | None = None
    engine: str = "transformers"
    dtype: Dtype = "auto"
    prompt: str | None = None
    decoding: Decoding | None = None
    strategy: Strategy | None = None
    window: int | None = None
    stride: int | None = None
    passes: int | None = None
    seed: int = 0
    max_prompt_tokens: int | None = None
    max_reason_tokens: int = 40
    calibration: str | Literal[False] | None = None
    blend: float | Literal[False] | None = None
    trust_remote_code: bool = False
    then: Decoding | None = None
    then_top: Annotated[int, Field(ge=2)] = 10
    then_scores: Combine = "replace"

    @field_validator("engine")
    @classmethod
    def _is_known(cls, engine: str) -> str:
        if engine not in ("transformers", "vllm") and not is_address(engine):
            raise ValueError("must be transformers, vllm or a server's address (http://...)")
        return engine


class PicturesConfig(Strict):
    """Pictures of listings, for a model that looks at them; the settings are those of `genrank.Pictures`.

    They are off unless `hosts`, `folders` or `data_urls` allows some.
    """

    hosts: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    data_urls: bool = False
    max_bytes: int = _PICTURES.max_bytes
    max_pixels: int = _PICTURES.max_pixels
    max_edge: int = _PICTURES.max_edge
    timeout: Seconds = _PICTURES.timeout
    in_flight: int = _PICTURES.in_flight
    kept_bytes: int = _PICTURES.kept_bytes
    kept_seconds: float = _PICTURES.kept_seconds

    @model_validator(mode="after")
    def _fits(self) -> PicturesConfig:
        self.settings()
        return self

    def settings(self) -> Pictures:
        """The same as `genrank.Reranker` takes it."""
        return Pictures(**self.model_dump())


class AuthConfig(Strict):
    """Who may call.

    Attributes:
        keys_file: A file with one key a line; empty lines and lines that begin with ``#`` do not count.
        open: Whether to serve without keys on an address that others can reach.
        rate_limit: The most rerank requests and searches for each key, such as ``600/minute`` or ``20/second``; None
            for no limit. Each process counts for itself.
    """

    keys_file: str | None = None
    open: bool = False
    rate_limit: str | None = None

    @field_validator("rate_limit")
    @classmethod
    def _parses(cls, rate: str | None) -> str | None:
        if rate is not None:
            try:
                limits.parse(rate)
            except ValueError:
                raise ValueError("must be a number of requests in a time, such as 600/minute or 20/second") from None
        return rate


class LimitsConfig(Strict):
    """The largest request; a larger one gets status 413.

    Attributes:
        body: Bytes of the body.
        documents: Documents in one request.
        text: Characters of the query, and of each document.
        history: Interactions in the history.
        reasons: Reasons for one request.
    """

    body: Count = 8 * 2**20
    documents: Count = 1000
    text: Count = 100_000
    history: Annotated[int, Field(ge=0)] = 1000
    reasons: Annotated[int, Field(ge=0)] = 10


class BatchingConfig(Strict):
    """How requests share the engine.

    Attributes:
        size: The most requests in a batch.
        wait: Seconds that a batch waits for more requests; by default 0.001 where batches run one after the other, and
            0 where several run at once, since the engine then makes its own.
        concurrency: Batches that run at once; by default 8 for an engine that can be awaited (vLLM), else 1.
        queue: Requests that may wait; further ones get status 429.
    """

    size: Count = 16
    wait: Annotated[float, Field(ge=0, le=1)] | None = None
    concurrency: Count | None = None
    queue: Count = 256


class CacheConfig(Strict):
    """Answers that are kept.

    Attributes:
        bytes: The most memory for answers kept in this process; 0 keeps none. Not used with Redis.
        seconds: How long an answer is kept.
        redis: Address of a Redis server that keeps them instead, such as ``redis://localhost:6379/0``; also from the
            environment variable ``GENRANK_REDIS_URL``.
        prefix: Begins every key in Redis. Change it when you replace weights without renaming them.
        patience: Seconds that a request waits for Redis before it is ranked; at most 5.
    """

    bytes: Annotated[int, Field(ge=0)] = 64 * 2**20
    seconds: Seconds = 300.0
    redis: SecretStr | None = None
    prefix: str = "genrank:"
    patience: Annotated[float, Field(gt=0, le=5)] = 0.2

    @field_validator("redis")
    @classmethod
    def _scheme(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must be an address such as redis://localhost:6379/0")
        return url


class BreakerConfig(Strict):
    """When to leave a failing engine alone.

    Attributes:
        failures: Batches in a row that fail before it opens.
        cool_down: Seconds until one batch tries the engine again, without reasons, which take longest.
    """

    failures: Count = 5
    cool_down: Seconds = 2.0


class PrivacyConfig(Strict):
    """What is removed from each history before it reaches the prompt, the cache's key or a log.

    Attributes:
        mask: Fields of an interaction, such as ``query``, ``time``, ``rating``, ``listing.brand``; all optional fields
            of `genrank.Interaction` and `genrank.Listing` can be named.
    """

    mask: tuple[str, ...] = ()

    @field_validator("mask")
    @classmethod
    def _known(cls, mask: tuple[str, ...]) -> tuple[str, ...]:
        check_mask(mask)
        return mask


class TelemetryConfig(Strict):
    """Logs and traces.

    Attributes:
        log_level: ``info`` logs one line a request.
        otlp: Address of an OpenTelemetry collector that takes traces over HTTP, such as
            ``http://localhost:4318/v1/traces``; None traces nothing.
        service: Name of the service in traces.
    """

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    otlp: str | None = None
    service: Name = "genrank"

    @field_validator("otlp")
    @classmethod
    def _address(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError("must be an address such as http://localhost:4318/v1/traces")
        return url


class SearchConfig(Strict):
    """Searches of a catalogue, `genrank.search.pipeline.Pipeline`; off without an index.

    Attributes:
        index: Folder that ``genrank index`` wrote.
        encoder: Name of the model that made the index's vectors, such as ``bert-minilm``, to search by meaning too.
        understand: Whether the model reads what each query means.
        shoppers: File of what shoppers did (`genrank.search.shoppers`); made if it is missing.
        rules: Business rules: the fields of `genrank.search.rules.Rules`, or a file of them.
        variety: The knob of `genrank.search.diversity`, 0 to 1, for searches that do not give their own.
        candidates: How many listings are found and ranked for each search.
        estimates: File of click estimates, `genrank.search.feedback.estimates`; read at the start.
        weight: Weight of the ranking's scores beside `estimates`, 0 to 1; needed with them, and left out without.
        log: Folder of the feedback log, where what is shown is written, and ``/v1/events``; made if it is missing.
    """

    index: str | None = None
    encoder: str | None = None
    understand: bool = False
    shoppers: str | None = None
    rules: dict[str, Any] | str | None = None
    variety: Annotated[float, Field(ge=0, le=1)] = 0.0
    candidates: Annotated[int, Field(ge=1, le=1000)] = 20
    estimates: str | None = None
    weight: Annotated[float, Field(ge=0, le=1)] | None = None
    log: str | None = None


class Config(Strict):
    """Everything that ``genrank serve`` can be told, by section."""

    server: ServerConfig = ServerConfig()
    model: ModelConfig = ModelConfig()
    pictures: PicturesConfig = PicturesConfig()
    auth: AuthConfig = AuthConfig()
    limits: LimitsConfig = LimitsConfig()
    batching: BatchingConfig = BatchingConfig()
    cache: CacheConfig = CacheConfig()
    breaker: BreakerConfig = BreakerConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    search: SearchConfig = SearchConfig()


def load_config(
    path: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> tuple[Config, tuple[str, ...]]:
    """Read the configuration; a flag counts before the environment, and the environment before the file.

    Args:
        path: A TOML file; None for defaults.
        flags: Values by their place, such as ``{"server.port": 8080}``; None is not given.
        environment: ``GENRANK_API_KEYS`` holds keys, separated by commas; ``GENRANK_REDIS_URL`` is ``cache.redis``.

    Returns:
        The configuration, and the keys that may call.

    Raises:
        ConfigError: When anything is wrong; the message lists every problem, with its place, and holds no key.
    """
    problems: list[str] = []
    values = _read(path, problems)
    given = {"cache.redis": (REDIS_VARIABLE, environment.get(REDIS_VARIABLE) or None)}
    given |= {place: (f"--{place.split('.')[1].replace('_', '-')}", value) for place, value in (flags or {}).items()}
    sources: dict[str, str] = {}
    for place, (source, value) in given.items():
        section, key = place.split(".")
        if value is not None and isinstance(values.setdefault(section, {}), dict):
            values[section][key] = value
            sources[place] = source
    config = Config()
    try:
        config = Config.model_validate(values)
    except pydantic.ValidationError as error:
        problems += _complaints(error, sources, path)
    auth = values.get("auth")
    keys_file = auth.get("keys_file") if isinstance(auth, dict) else None
    model = values.get("model")
    fallback = model.get("fallback") if isinstance(model, dict) else None
    if isinstance(fallback, str):
        problems += _fallback_problems(fallback)
    if isinstance(values.get("search"), dict):
        problems += _search_problems(values["search"])
    keys = _keys(keys_file if isinstance(keys_file, str) else None, environment.get(KEYS_VARIABLE, ""), problems)
    if not problems and not keys and not config.auth.open and not _only_here(config.server.host):
        problems.append(
            f"server.host: {config.server.host} can be reached by others, and there are no keys; set {KEYS_VARIABLE} "
            "or auth.keys_file, or allow everyone with auth.open = true"
        )
    if problems:
        head = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError("\n  ".join([f"{head} in the configuration:", *problems]))
    return config, keys


def _read(path: str | Path | None, problems: list[str]) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(read_text(path))
    except OSError as error:
        problems.append(f"{path}: {error.strerror or error}")
    except ValueError as error:
        problems.append(f"{path}: not valid TOML: {error}")
    return {}


def _complaints(error: pydantic.ValidationError, sources: Mapping[str, str], path: str | Path | None) -> list[str]:
    """A line for each problem, with where the value comes from; the variants of a union are one problem."""
    lines: dict[str, str] = {}
    for one in error.errors(include_url=False):
        place = ".".join(str(part) for part in one["loc"][:2])
        source = sources.get(place, path)
        if place == "cache.redis":  # it may hold a password
            one["input"] = "an address"
        field, message = first_problem([{**one, "loc": one["loc"][:2]}])
        if one["type"] == "extra_forbidden":
            key = len(one["loc"]) > 1
            parent: Any = Config.model_fields[str(one["loc"][0])].annotation if key else Config
            message = f"unknown {'key' if key else 'section'}; there are {', '.join(parent.model_fields)}"
        lines.setdefault(place, f"{source}: {field}: {message}")
    return list(lines.values())


def _fallback_problems(folder: str) -> list[str]:
    """What keeps the fallback from being loaded."""
    try:
        from genrank.rankers.gbdt import check_folder

        check_folder(folder)
    except GenrankError as error:
        return [f"model.fallback: {error}"]
    return []


def _search_problems(section: Mapping[str, Any]) -> list[str]:
    """What keeps the parts of a search from being opened."""
    if section.get("index") is None:
        return ["search.index: is missing; name the folder that genrank index wrote"] if section else []
    problems = []
    if (section.get("estimates") is None) != (section.get("weight") is None):
        problems.append("search.weight: goes with search.estimates; set both, or neither")

    def check(key: str, work: Callable[[Any], object], kinds: type | tuple[type, ...] = str) -> None:
        if isinstance(section.get(key), kinds):
            try:
                work(section[key])
            except (GenrankError, OSError) as error:
                problems.append(f"search.{key}: {error}")

    def open_index(folder: str) -> None:
        from genrank.search.index import Index

        Index.open(folder).close()

    def open_shoppers(file: str) -> None:
        from genrank.search.shoppers import Shoppers

        if Path(file).exists():
            Shoppers(file).close()
        elif not Path(file).absolute().parent.is_dir():
            raise ConfigError(f"{file}: its folder does not exist")

    def read_rules(rules: Any) -> None:
        from genrank.search.parts import make_rules

        make_rules(rules)

    def read_estimates(file: str) -> None:
        from genrank.search.feedback.estimates import ClickEstimates

        ClickEstimates.load(file)

    def import_log(folder: str) -> None:
        import genrank.search.feedback.log  # noqa: F401 - its extra may be missing

        if Path(folder).exists() and not Path(folder).is_dir():
            raise ConfigError(f"{folder}: is no folder")

    def import_spelling(wanted: bool) -> None:
        for package in ("pypinyin", "symspellpy") if wanted else ():
            if find_spec(package) is None:
                raise MissingExtraError(package, "search")

    check("index", open_index)
    check("shoppers", open_shoppers)
    check("rules", read_rules, (str, dict))
    check("estimates", read_estimates)
    check("log", import_log)
    check("understand", import_spelling, bool)
    return problems


def _keys(path: str | None, listed: str, problems: list[str]) -> tuple[str, ...]:
    """The keys of the file and of the environment; what is wrong with them goes to `problems`."""
    found = [(f"{KEYS_VARIABLE}, key {i}", key.strip()) for i, key in enumerate(listed.split(","), 1) if key.strip()]
    if path is not None:
        try:
            lines = read_text(path).splitlines()
        except (OSError, ValueError) as error:
            problems.append(f"auth.keys_file: {path}: {getattr(error, 'strerror', None) or error}")
            lines = []
        kept = [(f"{path}:{i}", line.strip()) for i, line in enumerate(lines, 1)]
        kept = [(where, key) for where, key in kept if key and not key.startswith("#")]
        if lines and not kept:
            problems.append(f"auth.keys_file: {path}: holds no key; write one a line")
        found += kept
    for where, key in found:
        if len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
            problems.append(f"{where}: a key has at least {_SHORTEST_KEY} printable ASCII characters and no spaces")
    return tuple(key for _, key in found)


def _only_here(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
