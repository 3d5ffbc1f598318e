from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from genrank.doctor.server import check_server
from genrank.errors import InputError
from tests.chat_double import ChatDouble

URL = "http://host:8000/v1"


def answers(status: int, body: Any) -> Any:
    return httpx.MockTransport(lambda _: httpx.Response(status, content=json.dumps(body)))


def models(*names: str, owner: str = "vllm") -> Any:
    return answers(200, {"data": [{"id": name, "owned_by": owner} for name in names]})


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENRANK_API_KEY", raising=False)


def test_vllm_is_read_by_token_ids() -> None:
    check = check_server(URL, transport=models("m", "adapter"))
    assert (check.state, check.found) == (
        "ok",
        "serves m, adapter; read by token ids, every decoding; --deep tries it",
    )


def test_the_tokenizer_of_a_model_on_vllm_needs_transformers() -> None:
    check = check_server(URL, transformers=False, transport=models("m"))
    assert (check.state, check.fix) == ("failed", "pip install 'genrank[gateway]'")
    assert check_server(URL, transformers=False, transport=models("m", owner="me")).state == "ok"


def test_another_server_is_read_by_chat_messages() -> None:
    check = check_server(URL, transport=models(*"abcdefg", owner="library"))
    assert check.found == "serves a, b, c, d, e and 2 more; read by chat messages; --deep tries it"


def test_a_deep_look_tries_what_the_server_does() -> None:
    double = ChatDouble({}, enforces=["json_schema"], top=20)
    check = check_server(URL, deep=True, transport=double.transport)
    assert (check.state, check.found) == ("ok", "serves m; read as chat (json_schema, top 20 log-probabilities)")


def test_a_server_that_lists_models_but_answers_nothing_fails_deep() -> None:
    def serve(request: Any) -> Any:
        if request.url.path.endswith("/models"):
            return httpx.Response(200, content=json.dumps({"data": [{"id": "m"}]}))
        return httpx.Response(404)

    check = check_server(URL, deep=True, transport=httpx.MockTransport(serve))
    assert (check.state, check.fix) == ("failed", "genrank vllm --model m")


@pytest.mark.parametrize(
    ("transport", "fix"),
    [
        (answers(401, {"error": "no"}), "export GENRANK_API_KEY=..."),
        (answers(404, {}), f"curl {URL}/models"),
        (answers(200, {"data": []}), f"curl {URL}/models"),
        (answers(503, {}), f"curl {URL}/models"),
        (answers(200, None), f"curl {URL}/models"),
    ],
)
def test_a_server_that_cannot_be_read_fails_with_a_fix(transport: Any, fix: str) -> None:
    check = check_server(URL, transport=transport)
    assert (check.state, check.fix) == ("failed", fix)
    assert URL in check.found
    assert ("ends in /v1" in check.found) == (check.found.count("404") > 0)


def test_a_server_that_is_not_there() -> None:
    check = check_server("http://127.0.0.1:9/v1")
    assert (check.state, check.fix) == ("failed", "genrank vllm")


def test_a_key_that_cannot_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENRANK_API_KEY", "schlüssel")
    check = check_server(URL, transport=models("m"))
    assert (check.state, check.fix) == ("failed", "export GENRANK_API_KEY=...")
    assert "schlüssel" not in check.found


def test_what_is_no_address_is_a_wrong_call() -> None:
    with pytest.raises(InputError, match="must be an address"):
        check_server("vllm")
