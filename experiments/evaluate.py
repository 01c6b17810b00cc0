"""Score a saved adapter (or model) again, on the same or on other data.

    python -m experiments.evaluate run=DIR [task.data_dir=DIR | task=OPTION | task.KEY=VALUE ...]

It is read by stock PEFT or transformers and scored in full precision; ``adapter=DIR`` takes another
folder than the run's own.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bilevel.errors import UserError, printable
from experiments.cli.command_line import CommandLine
from experiments.cli.program import program
from experiments.cli.quiet import quiet
from experiments.results import record
from experiments.results.finished_run import SavedRun, take
from experiments.results.record import shown

__all__ = ["evaluate", "main"]


def evaluate(run: SavedRun, adapter: Path) -> dict[str, float | None]:
    """The task's metrics and ``loss`` of an adapter on the run's base model.

    Raises:
        UserError: there is no adapter, or the task has other labels than it was trained for.
    """
    import torch  # here: what is wrong with the words is told without it

    from experiments.models.virtual_tokens import beside_adapter
    from experiments.results import saved_model
    from experiments.training.scoring import score

    quiet()
    task = run.task()
    loaded = run.base(task)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = saved_model.load(adapter, loaded.model).to(device)
    except UserError as error:
        raise UserError(f"task {task.name} on model {run.config.model.name}: {error}") from error
    loaded = replace(loaded, tokenizer=beside_adapter(loaded.tokenizer, model))
    tests = {name: loaded.tokenise(task, rows) for name, rows in task.tests.items()}
    scores = score(model, task, tests, task.collator(loaded.tokenizer), tokenizer=loaded.tokenizer)
    return {**scores.metrics, "loss": scores.loss}


@program(lambda: str(__doc__))
def main(words: list[str]) -> None:
    """The program."""
    line = CommandLine.of_one(words)
    own, overrides = take(line.overrides, run=None, adapter=None)
    run = SavedRun.open(own["run"], line, overrides)
    adapter = own["adapter"] or record.saved_folder(run.result, run.folder)
    scores = evaluate(run, Path(adapter))
    reported = {**run.result["metrics"], "loss": run.result["test_loss"]}
    title = f"{run.result['method']} on {run.config.task.name}, {run.result['model']}"
    print(printable(title))
    for name, value in scores.items():
        there = "" if name not in reported else f"   (its result.json says {shown(reported[name])})"
        print(printable(f"  {name:20} {shown(value)}{there}"))


if __name__ == "__main__":
    main()
