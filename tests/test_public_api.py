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


@pytest.mark.parametrize("page", [*PAGES, *EXAMPLES], ids=lambda page: page.name)
def test_docs_and_examples_import_listed_names_only(page: Path) -> None:
    for code in code_of(page):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Import):
                assert not [a.name for a in node.names if a.name.split(".")[0] in PUBLIC]
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PUBLIC:
                assert node.module in PUBLIC
                listed = importlib.import_module(node.module).__all__
                assert not [a.name for a in node.names if a.name not in listed]
