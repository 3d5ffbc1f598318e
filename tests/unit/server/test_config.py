from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import genrank.server
from genrank.errors import ConfigError, MissingExtraError
from genrank.pictures import Pictures
from genrank.server.config import Config, load_config


def write(folder: Path, text: str) -> Path:
    path = folder / "serve.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_anything_it_serves_this_machine_alone() -> None:
    config, keys = load_config(environment={})
    assert config == Config()
    assert (config.server.host, keys) == ("127.0.0.1", ())


def test_a_flag_counts_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[server]\nport = 1\ndeadline = 2.0\n[cache]\nredis = "redis://file"')
    config, _ = load_config(path, {"server.port": 3, "server.host": None}, {"GENRANK_REDIS_URL": "redis://environment"})
    assert (config.server.port, config.server.deadline, config.server.host) == (3, 2.0, "127.0.0.1")
    assert config.cache.redis is not None
    assert config.cache.redis.get_secret_value() == "redis://environment"
    config, _ = load_config(path, {"cache.redis": "redis://flag"}, {"GENRANK_REDIS_URL": "redis://environment"})
    assert config.cache.redis is not None
    assert config.cache.redis.get_secret_value() == "redis://flag"


def test_the_model_may_run_on_a_server(tmp_path: Path) -> None:
    config, _ = load_config(write(tmp_path, '[model]\nengine = "http://gpu:8000/v1"'), environment={})
    assert (config.model.engine, config.model.model) == ("http://gpu:8000/v1", None)
    with pytest.raises(ConfigError, match=r"model\.engine: .*must be transformers, vllm or a server's address"):
        load_config(write(tmp_path, '[model]\nengine = "gpu:8000"'), environment={})


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [server]
        prot = 80
        [model]
        decoding = "magic"
        blend = "much"
        [auth]
        rate_limit = "fast"
        keys_file = "missing.txt"
        [privacy]
        mask = ["listing.title"]
        [colours]
        """,
    )
    environment = {"GENRANK_API_KEYS": "good-enough,hush", "GENRANK_REDIS_URL": "http://user:hunter2@host"}
    with pytest.raises(ConfigError) as caught:
        load_config(path, {"server.port": 70000}, environment)
    lines = str(caught.value).splitlines()
    assert lines[0] == "10 problems in the configuration:"
    for words in (
        f"{path}: server.prot: unknown key; there are host, port, deadline, when_down, shutdown",
        "--port: server.port: Input should be less than or equal to 65535, got 70000",
        f"{path}: model.decoding: Input should be 'pointwise', 'inline', 'first-token' or 'listwise', got 'magic'",
        f"{path}: model.blend: ",
        f"{path}: auth.rate_limit: must be a number of requests in a time, such as 600/minute or 20/second, got 'fast'",
        f"{path}: privacy.mask: 'listing.title' is no optional field",
        f"{path}: colours: unknown section; there are server, model",
        "GENRANK_REDIS_URL: cache.redis: must be an address such as redis://localhost:6379/0",
        "auth.keys_file: missing.txt: No such file or directory",
        "GENRANK_API_KEYS, key 2: a key has at least 8 printable ASCII characters and no spaces",
    ):
        assert any(line.strip().startswith(words) for line in lines), words
    assert "hush" not in str(caught.value), "a key"
    assert "hunter2" not in str(caught.value), "a password"


@pytest.mark.parametrize(
    ("text", "words"),
    [("[server", "not valid TOML"), (None, "No such file"), ("server = 3", "server: Input should be a valid dict")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "none.toml" if text is None else write(tmp_path, text)
    with pytest.raises(ConfigError, match=f"1 problem in the configuration:\n  {path}: {words}"):
        load_config(path, {"server.port": 3}, {})


def test_keys_come_from_the_environment_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# for the shop\nfirst-key-1\n\n  second-key-2\n")
    path = write(tmp_path, f'[auth]\nkeys_file = "{tmp_path / "keys"}"')
    _, keys = load_config(path, environment={"GENRANK_API_KEYS": "third-key-3, ,"})
    assert keys == ("third-key-3", "first-key-1", "second-key-2")


def test_a_file_without_keys_does_not_open_the_server(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# none yet\n")
    path = write(tmp_path, f'[auth]\nkeys_file = "{tmp_path / "keys"}"\nopen = true')
    with pytest.raises(ConfigError, match="holds no key; write one a line"):
        load_config(path, environment={})


@pytest.mark.parametrize(("host", "refused"), [("0.0.0.0", True), ("::", True), ("shop.example", True),
                                               ("127.0.0.9", False), ("::1", False), ("localhost", False)])  # fmt: skip
def test_others_are_served_only_with_keys(host: str, refused: bool) -> None:
    if refused:
        with pytest.raises(ConfigError, match=f"server.host: {host} can be reached by others, and there are no keys"):
            load_config(None, {"server.host": host}, {})
    else:
        load_config(None, {"server.host": host}, {})
    load_config(None, {"server.host": host}, {"GENRANK_API_KEYS": "key-for-all"})
    load_config(None, {"server.host": host, "auth.open": True}, {})


def test_pictures_are_off_unless_a_source_is_named(tmp_path: Path) -> None:
    config, _ = load_config(None, environment={})
    assert not config.pictures.settings().on
    path = write(tmp_path, f'[pictures]\nhosts = ["img.shop.example"]\nfolders = ["{tmp_path}"]\nmax_edge = 256')
    config, _ = load_config(path, environment={})
    assert config.pictures.settings() == Pictures(hosts=("img.shop.example",), folders=(tmp_path,), max_edge=256)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('hosts = ["http://img.shop.example"]', r"pictures: hosts\[0\]: must be a host such as img.shop.example"),
        ("max_edge = 1", "pictures: max_edge: "),
        ("host = []", r"pictures.host: unknown key; there are hosts, folders"),
    ],
)
def test_wrong_settings_of_pictures_are_named(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(write(tmp_path, f"[pictures]\n{line}"), environment={})


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "limits" else found(name))
    with pytest.raises(
        MissingExtraError, match=r"limits is not installed; get it with: pip install 'genrank\[server\]'"
    ):
        importlib.reload(genrank.server)


def test_a_password_is_not_printed() -> None:
    config, _ = load_config(None, {"cache.redis": "redis://:hunter2@host"}, {})
    assert "hunter2" not in repr(config)


def test_the_documentation_holds_the_defaults_and_names_every_setting() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs/serving.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert Config.model_validate(tomllib.loads(block)) == Config()
    options = block.split("[model]")[1].split("[auth]")[0]
    for section, field in Config.model_fields.items():
        model: Any = field.annotation
        for name in model.model_fields:
            assert section == "model" or re.search(rf"\b{name}\b", block), f"{section}.{name}"
    assert {"adapter", "decoding", "window", "blend", "instructions", "aliases"} <= set(re.findall(r"\w+", options))


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    """A folder that looks like a trained ranker, as far as the settings are checked."""
    if not all(map(importlib.util.find_spec, ("numpy", "lightgbm", "sentence_transformers"))):
        pytest.skip("the extra rankers is not installed")
    (tmp_path / "baseline.json").write_text('{"format": 1, "files": {}}')
    return tmp_path


def test_the_fallback_is_checked_with_all_the_rest(tmp_path: Path, baseline: Path) -> None:
    config, _ = load_config(write(tmp_path, f'[model]\nfallback = "{baseline}"'), environment={})
    assert config.model.fallback == str(baseline)
    (tmp_path / "none").mkdir()
    path = write(tmp_path, f'[model]\ndecoding = "magic"\nfallback = "{tmp_path / "none"}"')
    with pytest.raises(ConfigError, match="2 problems") as caught:
        load_config(path, environment={})
    assert f"model.fallback: {tmp_path / 'none'} holds no BERT + GBDT ranker; train one" in str(caught.value)


@pytest.mark.parametrize("package", ["lightgbm", "sentence-transformers"])
def test_a_fallback_without_its_packages_is_a_problem_like_any_other(
    baseline: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, hidden = importlib.util.find_spec, package.replace("-", "_")
    monkeypatch.setattr("genrank.rankers.gbdt.find_spec", lambda name: None if name == hidden else found(name))
    with pytest.raises(ConfigError, match="2 problems") as caught:
        load_config(None, {"model.fallback": str(baseline), "server.port": -1}, {})
    words = f"model.fallback: {package} is not installed; get it with: pip install 'genrank[rankers]'"
    assert words in str(caught.value)


def test_everything_that_keeps_a_search_from_opening_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    (tmp_path / "log").write_text("a file")
    (tmp_path / "shoppers").write_text("no database " * 100)
    path = write(
        tmp_path,
        f"""
        [search]
        index = "{tmp_path / "none"}"
        shoppers = "{tmp_path / "shoppers"}"
        log = "{tmp_path / "log"}"
        variety = 2
        candidates = 0
        colour = "red"
        rules = {{at_most = [{{by = "colour", most = 1, top = 10}}]}}
        """,
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path, environment={})
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert lines[0] == "7 problems in the configuration:"
    for words in (
        f"{path}: search.variety: Input should be less than or equal to 1",
        f"{path}: search.candidates: Input should be greater than or equal to 1",
        f"{path}: search.colour: unknown key; there are index, encoder, understand",
        "search.index: path: no index in",
        f"search.shoppers: {tmp_path / 'shoppers'}: expected a file of shoppers",
        f"search.log: {tmp_path / 'log'}: is no folder",
        "search.rules: at_most[0].by: must be brand, seller, category or attributes.NAME",
    ):
        assert any(line.startswith(words) for line in lines), (words, lines)


def test_estimates_go_with_a_weight(tmp_path: Path) -> None:
    path = write(tmp_path, '[search]\nindex = "none"\nestimates = "none.json"')
    with pytest.raises(ConfigError) as caught:
        load_config(path, environment={})
    assert "search.weight: goes with search.estimates; set both, or neither" in str(caught.value)
    assert "search.estimates: " in str(caught.value)
    assert "none.json" in str(caught.value)


def test_a_search_section_needs_an_index(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"search\.index: is missing"):
        load_config(write(tmp_path, "[search]\nunderstand = true"), environment={})


def test_missing_extras_of_a_search_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import genrank.server.config

    pytest.importorskip("numpy")
    from genrank.search.index import Index

    Index.create(tmp_path / "index").close()
    monkeypatch.setitem(sys.modules, "genrank.search.feedback.log", None)  # as if it could not be imported
    monkeypatch.delitem(sys.modules, "genrank.search.feedback.log")
    monkeypatch.setitem(sys.modules, "duckdb", None)
    monkeypatch.setattr(genrank.server.config, "find_spec", lambda _: None)
    flags = {"search.index": str(tmp_path / "index"), "search.log": str(tmp_path / "log"), "search.understand": True}
    with pytest.raises(ConfigError) as caught:
        load_config(None, flags, {})
    assert "search.log: duckdb is not installed; get it with: pip install 'genrank[feedback]'" in str(caught.value)
    assert "search.understand: pypinyin is not installed" in str(caught.value)


def test_flags_describe_a_search(tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    from genrank.search.index import Index

    Index.create(tmp_path / "index").close()
    config, _ = load_config(None, {"search.index": str(tmp_path / "index"), "search.log": str(tmp_path / "log")}, {})
    assert (config.search.index, config.search.log) == (str(tmp_path / "index"), str(tmp_path / "log"))
    assert not (tmp_path / "log").exists(), "nothing is made yet"
