"""Score generated texts against human references.

    python -m experiments.score_text hypotheses=FILE references=FILE[,FILE...] metrics=bleu,nist,...
        [metrics.tokenize=auto|13a|intl|zh|char]

How words are cut: 13a, as the papers' scores of English; intl, other alphabets and accents; zh,
Chinese; char, each character (Japanese, Thai). auto, the default, goes by the references' script.

One text a line (.gz too). References: several files, whose lines belong together (an empty line
is no reference), or one file with a line for each example, or with groups of lines between empty
lines.
encoding=NAME reads files that are not UTF-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from bilevel.errors import UserError, listed, nearest
from experiments.cli.program import program
from experiments.metrics.text import TEXT_METRICS, score_text
from experiments.metrics.text.tokenization import check_tokenization
from experiments.results.finished_run import take
from experiments.tasks.reading.dialect import Dialect
from experiments.tasks.reading.text import lines_of, read_text

__all__ = ["main", "read_references", "read_texts"]

OPTIONS = ("hypotheses", "references", "metrics", "encoding")
TOKENIZE = "metrics.tokenize"


def read_texts(path: Path, encoding: str | None = None) -> list[str]:
    """The lines of a file, an empty one included, without white space around them.

    Raises:
        UserError: there is no such file, or it is no text in this encoding (None for UTF-8).
    """
    text = read_text(path, Dialect(encoding, prefix=""))
    return [line.strip() for line in lines_of(text)]


def read_references(
    paths: Sequence[Path], examples: int, encoding: str | None = None
) -> list[list[str]]:
    """For each of so many examples its references; see the program's help for the layouts.

    Raises:
        UserError: a file cannot be read, or one of several has fewer lines than another.
    """
    if len(paths) > 1:
        columns = [read_texts(path, encoding) for path in paths]
        last = [max((i for i, text in enumerate(c, 1) if text), default=0) for c in columns]
        for path, column in zip(paths, columns, strict=True):
            if len(column) < max(last):
                raise UserError(
                    f"{path} has {len(column)} lines and {paths[last.index(max(last))]} has "
                    f"{max(last)}: lines of several files of references belong together, and an "
                    "empty line is no reference"
                )
        rows = zip_longest(*columns, fillvalue="")
        return [[text for text in row if text] for row in rows]
    groups: list[list[str]] = [[]]
    for line in read_texts(paths[0], encoding):
        if line:
            groups[-1].append(line)
        elif groups[-1]:  # several empty lines separate as one does
            groups.append([])
    groups = [group for group in groups if group]
    if (
        len(groups) == 1 and examples > 1
    ):  # no empty line: an example a line, as the E2E script reads it
        return [[text] for text in groups[0]]
    return groups


def _help() -> str:
    lines = [
        f"  {m.name:14} {m.choices} (needs {', '.join(m.needs)})" for m in TEXT_METRICS.values()
    ]
    return "\n".join([f"{__doc__}\nMetrics:", *lines])


@program(_help)
def main(words: list[str]) -> None:
    """The program."""
    defaults: dict[str, str | None] = {**dict.fromkeys(OPTIONS), TOKENIZE: "auto"}
    own, rest = take(words, **defaults)
    for word in rest:
        key = word.partition("=")[0]
        raise UserError(
            f"unknown option {key!r}: allowed are {listed(defaults)}{nearest(key, defaults)}"
        )
    encoding = own.pop("encoding") or None
    for key, value in own.items():
        if not value:
            raise UserError(f"{key}= is needed; --help shows how")
    tokenize = own[TOKENIZE] or ""
    check_tokenization(tokenize, TOKENIZE)
    hypotheses = read_texts(Path(own["hypotheses"] or ""), encoding)
    paths = [Path(name) for name in (own["references"] or "").split(",")]
    references = read_references(paths, len(hypotheses), encoding)
    names = (own["metrics"] or "").split(",")
    scores, settings = score_text(names, hypotheses, references, tokenize)
    print(f"{len(hypotheses)} texts, {sum(map(len, references))} references")
    for name, score in scores.items():
        number = "-" if score is None else f"{score:.4f}"
        print(f"  {name:14} {number:>9}   {settings[name]}")


if __name__ == "__main__":
    main()
