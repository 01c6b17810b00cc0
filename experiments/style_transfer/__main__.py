"""Zero-shot style transfer by an instruction-tuned model, scored by three other models.

    python -m experiments.style_transfer run=DIR classifier=DIR data_dir=DIR [OPTION=VALUE ...]

run: of task=instructions. classifier: of a task with two labels. data_dir: a folder with a file test.
Options: language_model=ID_OR_FOLDER (default: the run's base model), max_test=N, out=DIR (default:
RUN/style_transfer), styles=negative,positive (names of 0 and 1), instruction=TEXT with {source} and
{target}, classifier_labels=0,1 (the classifier's for 0 and 1), text_column=text, label_column=label,
reference_column=human_reference, and task.KEY=VALUE or model.KEY=VALUE of the run: task.decoding.beams=4.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments.command import CommandLine, one_sentence
from experiments.quiet import quiet
from experiments.result import shown
from experiments.style_transfer.options import Options
from experiments.style_transfer.transfer import transfer

__all__ = ["main"]


def main(words: Sequence[str] | None = None) -> None:
    """The program."""
    words = sys.argv[1:] if words is None else words
    if {"--help", "-h"} & set(words):
        print(__doc__)
        return
    quiet()
    with one_sentence():
        line = CommandLine.parse(words)
        options = Options.parse(line)
        values = transfer(options, line)
    print(f"{'':14}{'':24}accuracy      bleu  perplexity")
    for what in ("transfers", "copies", "human"):
        for direction, row in values[what].items():
            numbers = (shown(row[name]) for name in ("accuracy", "bleu", "perplexity"))
            print(f"  {what:12}{direction:22}" + "".join(f"{number:>10}" for number in numbers))
    print(
        f"  the classifier is right about {values['classifier']['accuracy']['overall']:.1%} of the originals"
    )
    print(f"  {options.out}")


if __name__ == "__main__":
    main()
