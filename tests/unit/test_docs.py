"""What the README and the docs name exists: commands, options, modules, files, links, extras."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import genrank
from genrank import MissingExtraError, Reranker
from genrank.cli.main import parse
from tests.test_conventions import ROOMS

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("**/*.md")])
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b|\.\.\.|\*|[|<>]")


def read(page: Path) -> str:
    """A page as it holds today: what upgrading.md says of an older version is left out."""
    text = page.read_text(encoding="utf-8")
    if page.name == "upgrading.md":
        text = re.sub(r"^\|[^|\n]*\|", "|", text, flags=re.MULTILINE)
    return text


def blocks(text: str, *languages: str) -> list[str]:
    return [code for language, code in FENCE.findall(text) if language in languages]


def spans(text: str) -> list[str]:
    """Inline code."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def commands(text: str) -> Iterator[list[str]]:
    """Every shell command, in blocks and inline, as words, comments left out; both sides of a pipe."""
    lines = [line for block in blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
    inline = [span for span in spans(text) if re.match(r"(genrank|python|make|pip) ", span)]
    for line in lines + inline:
        words = shlex.split(re.sub(r"\s*;\s*|^(\w+)\(\) \{", " ; ", line), comments=True)
        command: list[str] = []
        for word in [*words, ";"]:
            if word in (";", "|", "&&", "&"):
                if command:
                    yield command
                command = []
            else:
                command.append(word)


@each_page
def test_relative_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", FENCE.sub("", read(page))):
        if not target.startswith(("https://", "mailto:")):
            assert (page.parent / target).exists(), target


@each_page
def test_python_blocks_compile_and_import_what_exists(page: Path) -> None:
    for code in blocks(read(page), "python"):
        compile(code, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("genrank"):
                for alias in node.names:
                    assert_exists(f"{node.module}.{alias.name}")


@each_page
def test_genrank_commands_parse(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands(read(page)):
        if command[0] == "genrank" and len(command) > 1:
            try:
                parse(command[1:])
            except SystemExit as stopped:
                said = capsys.readouterr().err
                short = "the following arguments are required" in said  # prose names a command without its arguments
                assert short or not stopped.code, f"{shlex.join(command)}: {said}"


@each_page
def test_modules_that_are_run_exist_and_know_their_options(page: Path) -> None:
    for command in commands(read(page)):
        if "-m" not in command[1:3] or command[0] not in ("python", "torchrun"):
            continue
        module, options = command[2], command[3:]
        if module in ("pytest", "genrank"):
            continue
        for name in expand(module):
            spec = importlib.util.find_spec(name)
            assert spec is not None, name
            assert spec.origin is not None
            file = Path(spec.origin)
            if file.stem == "__init__":
                file = file.parent / "__main__.py"
                assert file.is_file(), f"{name} cannot be run"
            source = "".join(other.read_text(encoding="utf-8") for other in file.parent.glob("*.py"))
            for option in options:
                if option.startswith("--") and not name.startswith("finetune."):  # those come from TRL too
                    assert f'"{option}"' in source, f"python -m {name} {option}"


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    words = [word for command in commands(read(page)) for word in command] + spans(read(page))
    for word in words:
        if re.match(r"(genrank|eval|finetune|prompts|examples|tests|docs|\.github)/[\w./-]+$", word):
            assert PLACEHOLDER.search(word) or (ROOT / word).exists(), word


@each_page
def test_modules_and_names_in_backticks_exist(page: Path) -> None:
    for span in spans(read(page)):
        if re.fullmatch(r"genrank(\.\w+)+", span) and span not in ("genrank.json", "genrank.prompts"):
            assert_exists(span)
        elif re.fullmatch(r"(eval|finetune|examples)(\.\w+)+", span):
            assert importlib.util.find_spec(span) is not None, span


@each_page
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands(read(page)):
        if command[0] == "make":
            assert re.search(rf"^{command[1]}:", makefile, flags=re.MULTILINE), shlex.join(command)


@each_page
def test_extras_exist(page: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for named in re.findall(r"(?:genrank|'\.)\[([\w,-]+)\]", read(page)):
        assert set(named.split(",")) <= set(extras), named


def test_the_options_in_python_md_are_those_of_reranker() -> None:
    text = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    table = text.split("## Which options matter?")[1].split("\n## ")[0]
    named = [name for row in re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE) for name in spans(row)]
    assert len(named) > 5
    assert set(named) <= set(inspect.signature(Reranker).parameters)


def test_the_outcomes_in_python_md_are_those_that_there_are() -> None:
    text = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    rows = text.split("| outcome | meaning |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", rows, flags=re.MULTILINE) == ["model", "repaired", "fallback"]


def test_the_windows_in_finetuning_md_have_options() -> None:
    text = (ROOT / "docs/finetuning.md").read_text(encoding="utf-8")
    table = text.split("## Which windows are drawn?")[1].split("\n## ")[0]
    sources = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "finetune").glob("*.py"))
    named = [
        span.split(":")[0] for row in re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE) for span in spans(row)
    ]
    assert len(named) > 8
    for name in named:
        assert re.search(rf"\b{name}: ", sources), name


def test_the_map_names_every_room() -> None:
    text = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    drawn = set(re.findall(r"^  ([\w.]+)/? ", text.split("## The map")[1], flags=re.MULTILINE))
    inside = [path for path in (ROOT / "genrank").iterdir() if not path.is_symlink()]
    there = {path.name for path in inside if path.suffix == ".py" or list(path.glob("*.py"))}
    assert drawn == there - {"__main__.py"}


def test_the_rooms_of_the_architecture_are_those_of_the_test() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    (drawn,) = blocks(text.split("## Which way do imports point?")[1].split("\n## ")[0], "")
    assert drawn.split() == [room for room in ROOMS if room != "__main__"]


def test_the_reference_holds_every_public_name() -> None:
    shown = set()
    for page in (ROOT / "docs/reference").glob("*.md"):
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            assert_exists(name)
            shown.add(name)
    errors = {name for name in genrank.__all__ if name.endswith("Error")}  # the page of genrank.errors has them
    plain = {name for name in genrank.__all__ if name.startswith("__")}
    assert {f"genrank.{name}" for name in set(genrank.__all__) - errors - plain} <= shown
    assert "genrank.errors" in shown


def test_the_newest_version_of_the_changelog_is_the_packages() -> None:
    versions = re.findall(r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == genrank.__version__


def test_workflows_run_what_exists() -> None:
    yaml = pytest.importorskip("yaml")
    files = sorted((ROOT / ".github/workflows").glob("*.yml"))
    assert files
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    run = []
    for file in files:
        for job in yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"].values():
            assert job["runs-on"]
            assert job["timeout-minutes"]
            run += [shlex.split(step["run"]) for step in job["steps"] if "run" in step]
    assert [".ci/run"] in run
    for command in run:
        if command[0] == "make":
            assert re.search(rf"^{command[1]}:", makefile, flags=re.MULTILINE)
        for word in command:
            if word.startswith(("tests/", ".ci/")):
                assert (ROOT / word).exists(), word


def expand(module: str) -> list[str]:
    """``eval.run|baseline`` as both."""
    first, *others = module.split("|")
    return [first, *(f"{first.rsplit('.', 1)[0]}.{other}" for other in others)]


def assert_exists(name: str) -> None:
    """A module, or a name in one; a module whose extra is missing cannot be asked."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:cut])
        if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
            try:
                found: object = importlib.import_module(".".join(parts[:cut]))
            except MissingExtraError:
                return
            for part in parts[cut:]:
                found = getattr(found, part)
            return
    raise AssertionError(f"no {name}")
