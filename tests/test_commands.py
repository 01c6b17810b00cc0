"""Every command that the pages tell is one that the programs take."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from bilevel import launcher
from experiments.cli import help as help_page
from experiments.cli.command_line import CommandLine
from experiments.cli.words import check_words
from experiments.config.composition import composed, hydra_app
from experiments.config.plan import Plan
from experiments.config.schema import GROUPS
from experiments.results.finished_run import take
from tests.benchmarks.asked import without_weights

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```\w*\n([\s\S]*?)^```|^((?: {4}.*\n)+)", flags=re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")
ASSIGNED = re.compile(r"^ *([A-Z]+)=(?:\"(.*)\"|'(.*)'|(\S+))$", flags=re.MULTILINE)
PROGRAM = re.compile(r"-m (experiments|benchmarks)\.(\w[\w.]*)([^|]*)")
# What stands for a reader's own words, and one of them.
STANDS_FOR = {"TASK": "sst2", "NAME": "lora", "N": "100", "S": "0", "RATE": "1e-3", "SEARCH": "60"}
WRITTEN_BY_A_RUN = "lora_learned"


def commands(page: Path) -> Iterator[tuple[str, str, str]]:
    """Package, module and words of what a page starts by ``python -m`` or a launcher."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    named = {name: "".join(value) for name, *value in ASSIGNED.findall(text)}
    blocks = ["".join(found) for found in BLOCK.findall(text)]
    lines = [line for block in blocks for line in block.splitlines()]
    lines += [" ".join(x.split()) for x in INLINE.findall(BLOCK.sub("", text))]
    for line in lines:
        if found := PROGRAM.search(line):
            package, module, words = found.groups()
            yield package, module, re.sub(r"\$([A-Z]+)\b", lambda found: named[found[1]], words)


def typed(words: str) -> list[str]:
    """As a reader types them: without comments and dots, with words of one's own."""
    kept = shlex.split(words.replace("task=...", "task=sst2"), comments=True)
    parted = [x.partition("=") for x in kept if "..." not in x and ">" not in x]
    return [f"{key}{equals}{STANDS_FOR.get(value, value)}" for key, equals, value in parted]


TOLD = [(page.name, *command) for page in PAGES for command in commands(page)]
# Module and words -> the first page that has them.
RUNS = {
    (module, *typed(words)): page
    for page, _, module, words in reversed(TOLD)
    if module in ("run", "check_hypergradient") and WRITTEN_BY_A_RUN not in words
}


def each(override: Override) -> list[str]:
    """An option by each name of a group, its first and last number; none that a search draws."""
    if not override.is_sweep_override():
        return [override.input_line or ""]
    if not override.is_choice_sweep():
        return []
    words = [f"{override.get_key_element()}={x}" for x in override.sweep_string_iterator()]
    return words if override.get_key_element() in GROUPS else [words[0], words[-1]]


def test_the_pages_have_commands() -> None:
    assert len(RUNS) > 50
    assert {"README.md", "tasks.md", "methods_measured.md"} <= set(RUNS.values())


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{RUNS[run]}: {' '.join(run)}")
def test_a_run_is_one_that_can_begin(run: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    module, *words = run
    monkeypatch.chdir(ROOT)
    without_weights(monkeypatch)
    if "engine.shard=base" in words:
        for name, value in zip(launcher.EXPECTED, ("0", "8", "localhost", "29500"), strict=True):
            monkeypatch.setenv(name, value)
    line = CommandLine.parse(words)
    if line.wants_help:
        assert help_page.text(line)
        return
    overrides = list(line.overrides)
    if module == "check_hypergradient":
        own, overrides = take(overrides, steps="1", batches="1", horizon="null")
        assert None not in own.values()
    # Launchers and sweepers are extras, tested where they are installed.
    overrides = [x for x in overrides if not re.match(r"hydra[/.](launcher|sweeper)", x)]
    with hydra_app(line.config_dir) as app:
        check_words(overrides, line.multirun, app.config_loader.list_groups(""))
        parsed = OverridesParser.create(app.config_loader).parse_overrides(overrides)
        several = [x for x in map(each, parsed) if x]
        for turn in range(max((len(x) for x in several), default=1)):
            Plan.of(composed(app, [values[turn % len(values)] for values in several]))


@pytest.mark.parametrize(("package", "module", "words"), sorted({told[1:] for told in TOLD}))
def test_a_program_is_there_and_knows_its_options(package: str, module: str, words: str) -> None:
    found = importlib.util.find_spec(f"{package}.{module}")
    assert found is not None
    assert found.origin is not None
    files = [Path(found.origin)]
    if files[0].name == "__init__.py":
        files = [*files[0].parent.glob("*.py")]
    source = "\n".join(file.read_text(encoding="utf-8") for file in files)
    for option in re.findall(r"(?<!\S)(--[\w-]+)", words.partition("#")[0]):
        assert option in source or option == "--config-dir", option
