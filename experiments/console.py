"""Run the programs of this project by one command, `bilevel-finetune`, wherever one stands.

    bilevel-finetune run method=autolora task=sst2 task.data_dir=DIR model=minilm
    bilevel-finetune ranks run=DIR

`bilevel-finetune PROGRAM ...` is `python -m experiments.PROGRAM ...`, but for one thing: `python
-m` looks into the present folder first, and takes one called experiments or conf there for ours.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from importlib import resources

from experiments.cli import completion, early
from experiments.cli.command_line import FAILURE, explain, one_sentence

__all__ = ["COMMAND", "PROGRAMS", "main"]

COMMAND = "bilevel-finetune"
PROGRAMS = (
    *("run", "predict", "report", "ranks", "suspects", "evaluate", "export", "figures"),
    *("check_hypergradient", "reproduce", "score_text", "style_transfer", "demo"),
)
PACKAGES = ("style_transfer", "demo")


def main(words: Sequence[str] | None = None) -> None:
    """The program: the first word names another, which gets the rest."""
    early.end_on_interrupt()
    given = list(sys.argv[1:] if words is None else words)
    if not given or given[0] in ("--help", "-h"):
        explain(_page())
        return
    if given[0] in (completion.ASKED, "--completion"):
        _complete(given)
        return
    name = given[0].replace("-", "_")
    if name not in PROGRAMS:
        from bilevel.errors import listed, nearest

        allowed = f"allowed are {listed(PROGRAMS)}{nearest(name, PROGRAMS)}"
        print(f"error: {COMMAND} {given[0]}: there is no such program; {allowed}", file=sys.stderr)
        raise SystemExit(FAILURE)
    importlib.import_module(_module(name)).main(given[1:])


def _complete(words: Sequence[str]) -> None:
    """What a shell reads at its start, or asks while a line is typed."""
    with one_sentence():
        word = words[1] if len(words) > 1 else ""
        if words[0] == completion.ASKED:
            completion.candidates(word, PROGRAMS)
        else:
            print(completion.script(word), end="")


def _module(name: str) -> str:
    return f"experiments.{name}.__main__" if name in PACKAGES else f"experiments.{name}"


def _page() -> str:
    """The programs, each with the first line of its own page; none of them is loaded."""
    lines = [
        f"{COMMAND} PROGRAM ...   ({COMMAND} PROGRAM --help explains one)",
        f'eval "$({COMMAND} --completion bash)"   (or zsh: completes programs and options)',
        "",
    ]
    for name in PROGRAMS:
        file = resources.files("experiments").joinpath(
            f"{name}/__main__.py" if name in PACKAGES else f"{name}.py"
        )
        said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        lines.append(f"  {name:<20} {said.splitlines()[0]}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
