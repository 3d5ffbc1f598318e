"""The project's conventions, held by tests."""

from __future__ import annotations

import ast
import contextlib
import graphlib
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import genrank
from genrank import errors
from genrank.prompting.template import load_template, template_names

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = sorted(ROOT.glob("genrank/**/*.py"))
HEAVY = ("torch", "transformers", "vllm", "huggingface_hub", "numpy", "eval", "finetune")


@pytest.mark.parametrize(
    "module", ["genrank", "genrank.cli.main", "genrank.models.store", "genrank.testing", "genrank.words"]
)
def test_importing_is_light(module: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {HEAVY} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.split() == []


def test_all_is_sorted_and_complete() -> None:
    assert genrank.__all__ == sorted(genrank.__all__)
    imported = {
        alias.name
        for node in ast.parse((ROOT / "genrank/__init__.py").read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported | {"__version__"} == set(genrank.__all__)


def test_the_version_is_written_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"], "genrank/__init__.py holds it"
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "genrank.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", genrank.__version__)


def test_every_room_is_on_the_packages_first_page() -> None:
    page = genrank.__doc__ or ""
    hidden = {"__main__", "progress", "background", "files"}
    assert [room for room in ROOMS if room not in hidden and f"`genrank.{room}`" not in page] == []


def test_every_public_error_is_exported_and_drawn() -> None:
    names = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert names <= set(genrank.__all__)
    drawn = set(re.findall(r"\w+Error", errors.__doc__ or ""))
    assert names <= drawn


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_never_imports_the_programs(path: Path) -> None:
    assert not imports(path) & {"eval", "finetune", "examples", "tests"}


def test_the_programs_do_not_import_each_other() -> None:
    for folder, other in (("eval", "finetune"), ("finetune", "eval")):
        wrong = [str(path) for path in sorted((ROOT / folder).glob("**/*.py")) if other in imports(path)]
        assert not wrong, "what both need belongs in genrank/experiment"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in LIBRARY}


def arrows(path: Path) -> set[str]:
    """Modules of the library that a module imports, wherever in it, without those that only type checkers read."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & MODULES.keys()) or {node.module}
    return found - {module_name(path)}


ROOMS = (
    "errors", "progress", "background", "files", "text", "types", "inputs", "pictures", "windows", "permutation",
    "adapters", "calibration", "data", "models", "engines", "remote", "prompting", "decoding", "blending",
    "reasons", "fallback", "scheduling", "warming", "testing", "reranker", "cascade", "search", "words", "rankers",
    "experiment", "server", "batch", "integrations", "doctor", "cli", "__main__",
)  # fmt: skip
"""The rooms of the library, lowest first: each imports only those before it."""


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_one_way(module: str) -> None:
    room = module.split(".")[1] if "." in module else ""
    if not room:
        return  # the public face may name anything
    used = {other.split(".")[1] for other in arrows(MODULES[module]) if "." in other} - {room}
    assert room in ROOMS, "a new room has its place in ROOMS and in docs/architecture.md"
    wrong = [other for other in used if ROOMS.index(other) > ROOMS.index(room)]
    assert not wrong, f"{module} imports {wrong}, which come after {room}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {name: arrows(path) for name, path in MODULES.items() if name != "genrank"}
    order = graphlib.TopologicalSorter(graph)
    order.prepare()  # raises a CycleError that names the circle


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_messages_say_that_the_programs_are_in_a_clone(path: Path) -> None:
    """An installed library has no ``eval`` and no ``finetune``; a text that names one says where it is."""
    text = " ".join(re.sub(r'"\n\s*f?"', "", path.read_text(encoding="utf-8")).split())
    for program in re.finditer(r"python -m (eval|finetune)", text):
        assert "clone" in text[max(0, program.start() - 80) : program.end() + 80], program.group()


def test_every_extra_that_an_error_names_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named: dict[str, Path] = {}
    for path in (*LIBRARY, *ROOT.glob("eval/**/*.py"), *ROOT.glob("finetune/**/*.py")):
        text = path.read_text(encoding="utf-8")
        found = re.findall(r'MissingExtraError\(.*, "([\w-]+)"\)', text)
        found += [name for inside in re.findall(r"genrank\[([\w,-]+)\]", text) for name in inside.split(",")]
        named |= dict.fromkeys(found, path)
    assert {"transformers", "vllm", "search", "rankers", "eval"} <= named.keys()
    assert {extra: path for extra, path in named.items() if extra not in extras} == {}
    for needed in extras.values():
        for inside in re.findall(r"genrank\[(.*?)\]", " ".join(needed)):
            assert set(inside.split(",")) <= extras.keys()


def test_the_core_is_small() -> None:
    core = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.split(r"[<>=\[]", line)[0] for line in core} <= {
        "filelock",
        "httpx",
        "packaging",
        "pydantic",
        "regex",
        "tomli-w",
    }


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_asserts_nothing(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    asserts = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert not asserts, "user input is checked with errors, not with assert"


def test_programs_import_names_not_modules() -> None:
    """``import eval.x`` would shadow the builtin `eval`; ``from eval.x import y`` does not."""
    wrong = [
        f"{path}:{node.lineno}"
        for folder in ("eval", "examples", "tests")
        for path in sorted((ROOT / folder).glob("**/*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "eval" for alias in node.names)
    ]
    assert not wrong


def test_the_wheel_holds_every_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {"genrank", "genrank.prompts", "genrank.data.sample_shop"} | {
        module.name for module in pkgutil.walk_packages(genrank.__path__, "genrank.") if module.ispkg
    }
    assert set(settings["packages"]) == found


def test_every_shipped_template_loads_and_is_named_like_its_file() -> None:
    names = template_names()
    assert {"inline", "listwise"} <= set(names)
    assert [load_template(name).name for name in names] == names
    assert len({load_template(name).digest for name in names}) == len(names)


def test_public_names_are_documented() -> None:
    public = {name: getattr(genrank, name) for name in genrank.__all__}
    kinds = (inspect.isclass, inspect.isfunction)  # the values of a Literal are in the source
    bare = [name for name, value in public.items() if any(is_(value) for is_ in kinds) and not inspect.getdoc(value)]
    assert not bare


def test_unit_tests_mirror_the_library() -> None:
    skipped = {"__init__", "__main__"}
    missing = [
        str(path.relative_to(ROOT))
        for path in LIBRARY
        if path.stem not in skipped
        and not list((ROOT / "tests").glob(f"**/test_{path.stem}.py"))
        and not list((ROOT / "tests").glob(f"**/test_{path.stem}_engine.py"))
        and path.parent.name != "decoding"
        and path.stem != "base"
    ]
    assert not missing


def test_every_module_can_be_imported() -> None:
    for module in pkgutil.walk_packages(genrank.__path__, "genrank."):
        if module.name != "genrank.__main__":
            with contextlib.suppress(genrank.MissingExtraError):
                importlib.import_module(module.name)
