from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from genrank.server.playground.pages import FILES
from tests.unit.server.conftest import Serve

KEY = "a-long-secret-key"
KINDS = {"": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@pytest.mark.parametrize("path", sorted(FILES))
def test_a_file_comes_with_its_type_and_its_policy(serve: Serve, path: str) -> None:
    answer = serve([KEY]).get(path)
    assert answer.status_code == 200, "without a key, since a browser sends none"
    assert answer.headers["content-type"].startswith(KINDS[path.rpartition(".")[2] if "." in path else ""])
    policy = answer.headers["content-security-policy"]
    for rule in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "trusted-types 'none'"):
        assert rule in policy.split("; ")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_names_only_files_that_there_are_and_holds_no_script(serve: Serve) -> None:
    page = serve().get("/").text
    named = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert {"playground/main.js", "playground/style.css"} <= set(named)
    assert {f"/{name}" for name in named} <= FILES.keys()
    assert re.findall(r"<script[^>]*>(.+?)</script>", page, re.DOTALL) == []
    assert re.findall(r"\s(?:on\w+|style)=", page) == []


def test_scripts_import_only_each_other_and_make_no_markup() -> None:
    for path, file in FILES.items():
        if path.endswith(".js"):
            text = file.read_text(encoding="utf-8")
            imported = re.findall(r'from "\./([^"]+)"', text)
            assert {f"/playground/{name}" for name in imported} <= FILES.keys()
            assert len(imported) == len(re.findall(r"^import ", text, re.MULTILINE))
            assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function", text)


def test_the_wheel_holds_the_files() -> None:
    settings = tomllib.loads((Path(__file__).resolve().parents[3] / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["package-data"]["genrank.server.playground"] == ["static/*"]
    assert {path.suffix for path in Path(str(FILES["/"])).parent.iterdir()} == {".html", ".css", ".js", ".svg"}


def test_both_languages_have_the_same_words() -> None:
    text = FILES["/playground/words.js"].read_text(encoding="utf-8")
    english, chinese = text.split("const chinese = {")
    english = english.split("const english = {")[1]
    chinese = chinese.split("\nconst languages")[0]
    names = [re.findall(r"(?:^ {2}| {4}|[{,] )\"?([\w-]+)\"?: ", one, re.MULTILINE) for one in (english, chinese)]
    assert names[0] == names[1]
    assert len(names[0]) > 80
    page = FILES["/"].read_text(encoding="utf-8")
    assert set(re.findall(r'data-(?:word|label)="(\w+)"', page)) <= set(names[0])


@pytest.mark.parametrize(
    ("host", "there"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_by_default_it_is_there_only_for_this_machine(serve: Serve, host: str, there: bool) -> None:
    for said, expected in ((None, there), (True, True), (False, False)):
        client = serve([KEY], server={"host": host, "playground": said})
        assert client.get("/").status_code == (200 if expected else 401)
        with_key = client.get("/playground/setup", headers={"Authorization": f"Bearer {KEY}"})
        assert with_key.status_code == (200 if expected else 404)
