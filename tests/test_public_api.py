"""What the packages offer: listed, importable, typed, and all that docs and examples need."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PUBLIC = ("bilevel", "bilevel.hypergradient", "bilevel.lowrank", "problems", "experiments")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_listed_name_is_there(name: str) -> None:
    package = importlib.import_module(name)
    assert len(package.__all__) > 2
    for exported in package.__all__:
        assert getattr(package, exported).__class__.__name__ != "module", exported


@pytest.mark.parametrize("name", ["bilevel", "problems", "experiments"])
def test_types_are_shipped(name: str) -> None:
    assert (ROOT / name / "py.typed").is_file()


def code_of(page: Path) -> Iterator[str]:
    """The Python of a page's fenced blocks, or of an example."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".py":
        yield text
    else:
        yield from re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def used(code: str) -> Iterator[tuple[str, str]]:
    """Our packages that a piece of code uses, with what of each: by name, or as ``problems.X``."""
    tree = ast.parse(code)
    whole: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            ours = {a.name for a in node.names if a.name.split(".")[0] in PUBLIC}
            assert ours <= set(PUBLIC)
            whole |= ours
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PUBLIC:
            yield from ((str(node.module), alias.name) for alias in node.names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in whole:
            yield ast.unparse(node.value), node.attr


@pytest.mark.parametrize("page", [*PAGES, *EXAMPLES], ids=lambda page: page.name)
def test_docs_and_examples_use_listed_names_only(page: Path) -> None:
    for code in code_of(page):
        for package, name in used(code):
            assert package in PUBLIC
            assert name in importlib.import_module(package).__all__
