"""The pages lead where they say, and their lines are short."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
LONGEST = 130
FENCED = re.compile(r"^```.*?^```", flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        place = page.parent / file if file else page
        assert place.exists(), target
        if anchor:
            assert anchor in anchors(place), target


def test_pages_that_are_named_elsewhere_are_there() -> None:
    """In code, configurations and pages alike, by docs/NAME.md."""
    endings = {".py", ".yaml", ".md", ".toml", ".html"}
    folders = ("bilevel", "problems", "experiments", "conf", "benchmarks", "examples", "docs")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.*")]
    for path in [*PAGES, *files]:
        if path.suffix in endings:
            for name in re.findall(r"docs/\w+\.md", path.read_text(encoding="utf-8")):
                assert (ROOT / name).is_file(), f"{path}: {name}"


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Lines that are of no table and no block of code."""
    fenced = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith("|"):
            yield number, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_are_short(page: Path) -> None:
    assert not [number for number, line in prose(page) if len(line) > LONGEST]
