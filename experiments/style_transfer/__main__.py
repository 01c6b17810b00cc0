"""Transfer the style of sentences, zero-shot, by an instruction-tuned model; score it by others.

    python -m experiments.style_transfer run=DIR classifier=DIR data_dir=DIR [OPTION=VALUE ...]

run=DIR                 a finished run of task=instructions
classifier=DIR          a finished run of a task with two labels
classifier_model=DIR    where its base model is now; default: where it was for that run
data_dir=DIR            a folder with a file test, or with GYAFC's test/informal, test/formal, ...
language_model=MODEL    hub id or folder, or a KenLM model (.arpa, .binary, ...), for the
                        perplexity; default: the run's base model
max_test=N              sentences at most
out=DIR                 default: style_transfer in the run's folder
styles=negative,positive            names of the styles, of the data's labels 0 and 1; of GYAFC
                                    informal,formal
classifier_labels=0,1               the classifier's own labels of these; of GYAFC the same
instruction=TEXT                    {source} and {target} stand for the names of the styles
text_column=text  label_column=label  reference_column=human_reference
encoding=utf-8  delimiter=comma  quoting=true   how the data's file is written, as of task.encoding
task.KEY=VALUE  model.KEY=VALUE     of the run, task.decoding.beams=4
"""

from __future__ import annotations

from experiments.cli.command_line import CommandLine
from experiments.cli.program import program
from experiments.cli.quiet import quiet
from experiments.results.record import shown
from experiments.style_transfer.options import Options

__all__ = ["main"]


@program(lambda: str(__doc__))
def main(words: list[str]) -> None:
    """The program."""
    line = CommandLine.of_one(words)
    options = Options.parse(line)
    from experiments.style_transfer.transfer import transfer  # torch, for good words only

    quiet()
    values = transfer(options, line)
    print(f"{'':14}{'':24}accuracy      bleu  perplexity")
    for what in ("transfers", "copies", "human"):
        for direction, row in values[what].items():
            numbers = (shown(row[name]) for name in ("accuracy", "bleu", "perplexity"))
            print(f"  {what:12}{direction:22}" + "".join(f"{number:>10}" for number in numbers))
    right = values["classifier"]["accuracy"]["overall"]
    print(f"  the classifier is right about {right:.1%} of the sentences as they were")
    print(f"  {options.out}")


if __name__ == "__main__":
    main()
