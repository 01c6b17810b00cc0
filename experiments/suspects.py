"""Find training examples whose labels may be wrong, by examples that are trusted.

    python -m experiments.suspects run=DIR [count=N]
        [apply=drop | relabel | pooled | weight | trusted | then_trusted]

Of a finished run whose task has trusted examples (a file validation beside its test file,
task.trusted_file or task.trusted), by any method; one of method=example_weights adds its learned
weights. LoRA is trained on all but a part of the training data, ``folds`` (3) times over, and goes
on to the trusted examples; and it is trained on these alone. It writes suspects.csv: row in your
file, given and proposed label, rank by ``score`` (pooled), and all scores side by side:

    weight          1 - the weight learned by method=example_weights
    hypergradient   how much a step along the example's gradient raises the trusted loss
    confident       confident learning, from held-out probabilities (Northcutt et al. 2021)
    trusted         loss of the label under the model of the trusted examples alone
    then_trusted    loss of the label under models of the other labels that went on to the trusted
    pooled          probability that the label is wrong, by models of the other labels before and
                    after the trusted examples, and the noise in the labels
    combination     mean rank by confident and trusted
    small_loss      loss of the label under models that were trained on it

Where the right labels are known (task.label_noise, or task.true_label_column=COLUMN given now) it
prints how well each score finds the wrong ones (AUC) and draws suspects.png. ``apply`` trains LoRA
without the ``count`` most suspect (as many as are likelier wrong than right), with their
proposed labels, with the likeliest label of every example, counted by how sure ``pooled`` is of it,
or under the learned weights; and on the trusted examples, in DIR/suspects_APPLY. apply=trusted
trains on these alone, apply=then_trusted too, but from the weights that the run ended with (its
head anew): these two, which need no scores and write no table, are what the others have to beat.
Also: ``score`` (pooled; combination without classes), ``folds`` (3), ``epochs`` (the run's),
``trusted_epochs`` (20), ``out=DIR``. See docs/label_trust.md.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from bilevel.errors import UserError, listed, printable
from bilevel.settings import Count, Passes, Settings
from experiments.answers import CLASSES, TAGS
from experiments.cli.command_line import CommandLine
from experiments.cli.own_options import own_options
from experiments.cli.program import program
from experiments.cli.quiet import quiet
from experiments.results.finished_run import SavedRun

if TYPE_CHECKING:
    from experiments.config.plan import Plan
    from experiments.suspecting.find import Found
    from experiments.tasks.task import TaskData

__all__ = ["SuspectOptions", "main"]

GROUPS = ("model", "task")  # of the configuration, that have a say here
PICTURE = "suspects.png"
SHOWN = 5  # suspects in the terminal


@dataclass(frozen=True)
class SuspectOptions(Settings):
    """What this program is told besides the run and its configuration."""

    folds: Annotated[int, Ge(2), Le(20)] = 3
    """Parts of the training data, each scored by a model that was trained without it."""
    epochs: Passes | None = None
    """Passes of each of these models; null for the run's train.epochs."""
    trusted_epochs: Passes = 20.0
    """Passes over the trusted examples alone."""
    score: (
        Literal[
            "pooled",
            "then_trusted",
            "combination",
            "weight",
            "hypergradient",
            "confident",
            "trusted",
            "small_loss",
        ]
        | None
    ) = None
    """What suspects.csv is ranked by, and apply goes by; null for pooled, and for combination where
    there are no classes."""
    apply: Literal["drop", "relabel", "pooled", "weight", "trusted", "then_trusted"] | None = None
    """What to do with the suspects before LoRA is trained; null trains nothing."""
    count: Count | None = None
    """How many are suspects, for apply; null for those that are likelier wrong than right
    by pooled."""


@program(lambda: str(__doc__))
def main(words: list[str]) -> None:
    """The program."""
    line = CommandLine.of_one(words)
    options, own, overrides = own_options(SuspectOptions, line.overrides, GROUPS, "run", "out")
    run = SavedRun.open(own["run"], line, overrides)
    out = Path(own["out"] or run.folder)
    trained = out / f"suspects_{options.apply}"
    if options.apply is not None and trained.exists():
        raise UserError(f"{trained} is there already: move it away, or give another out=DIR")
    quiet()
    from experiments.results import weights_file
    from experiments.suspecting import table_file
    from experiments.suspecting.again import left_out, plan_of, trusting_task
    from experiments.suspecting.apply import ONLY_TRUSTED, check
    from experiments.suspecting.find import find
    from experiments.suspecting.scores import MEANINGS, OF_CLASSES
    from experiments.training import warm_start
    from experiments.training.fine_tuning_job import FineTuningJob

    table_file.refuse_others(out)
    task = trusting_task(run)
    learned = (run.folder / weights_file.FILE).is_file()
    if options.score == "weight" and not learned:
        raise UserError(
            "score=weight: the run has no learned weights, as its method was not example_weights; "
            f"allowed are {listed(name for name in MEANINGS if name != 'weight')}"
        )
    without = [name for name in MEANINGS if name not in OF_CLASSES]
    if options.score in OF_CLASSES and task.answers.kind not in (CLASSES, TAGS):
        raise UserError(
            f"score={options.score} needs classes or tags, and task {task.name} has none: allowed "
            f"are {listed(name for name in without if learned or name != 'weight')}"
        )
    plan = plan_of(run, len(task.train))
    check(task, options.apply, options.count, learned, plan.settings.batch_size)
    if options.apply == "then_trusted":  # what cannot be started from is told first
        warm_start.load(_from_run(plan, run).model, task.answers, plan.seed)
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # minutes: say what goes on
    if left := left_out(run):
        print(printable(f"without {listed(left)} of the run, in all of the trainings here"))
    if options.apply in ONLY_TRUSTED and options.score is not None:
        raise UserError(
            f"score={options.score} has no say in apply={options.apply}, which trains on the "
            "trusted examples alone: leave it out"
        )
    if options.apply in ONLY_TRUSTED:  # no score has a say in it
        _train(run, task, None, "", options, trained, {})
        return
    if len(task.train) < 2 * options.folds:
        raise UserError(
            f"folds={options.folds}: the {len(task.train)} training examples are too few for it"
        )
    job = FineTuningJob.load(plan, replace(task, tests={}))
    if learned:
        weights_file.read(job.data.examples, run.folder)  # what is wrong with them is told first
    epochs = plan.settings.epochs if options.epochs is None else options.epochs
    started = time.perf_counter(), time.process_time()
    found = find(job, run.folder, options.folds, epochs, options.trusted_epochs)
    spent = {
        "seconds": time.perf_counter() - started[0],
        "processor_seconds": time.process_time() - started[1],
    }
    by = options.score or found.scores.recommended
    for path in _report(task, found, by, out, run):
        print(printable(str(path)))
    if options.apply is not None:
        _train(run, task, found, by, options, trained, spent)


def _report(task: TaskData, found: Found, by: str, out: Path, run: SavedRun) -> list[Path]:
    """Print the scores and the first suspects, and write the table and the picture."""
    import numpy as np

    from experiments.plots import suspects as picture
    from experiments.suspecting import table_file
    from experiments.suspecting.scores import area, meaning, precision

    scores, origins = found.scores, task.origins()
    said = [f"{run.folder}: {len(task.train)} training examples, {len(task.validation or ())}"]
    said[0] += " trusted"
    if scores.estimated is not None:
        said[0] += f"; {scores.estimated} {_counted(task)} likelier wrong than right"
    if scores.expected is not None:
        said[0] += f", and about {scores.expected:.0f} are wrong in all"
    if scores.doubt is not None:
        said.append(f"doubt: {scores.doubt}")
    known = np.array([origin.truth is not None for origin in origins])
    given = [table_file.answer(task, example) for example in task.train]
    wrong = np.array([o.truth != y for o, y in zip(origins, given, strict=True)])[known]
    areas = {name: area(column[known], wrong) for name, column in scores.columns.items()}
    found_areas = {name: value for name, value in areas.items() if value is not None}
    if found_areas:
        said.append(f"AUC, of {int(wrong.sum())} wrong labels among {int(known.sum())} known ones:")
    width = max(map(len, scores.columns))
    for name in scores.columns:
        number = f"{found_areas[name]:.3f}  " if name in found_areas else ""
        said.append(f"  {name:{width}}  {number}{meaning(name, scores.columns)}")
    said.append(f"most suspect, by {by}:")
    for i in scores.ranks(by).argsort(kind="stable")[:SHOWN].tolist():
        proposed = table_file.shown(task.answers, found.proposed[i], table_file.PREDICTED)
        label = table_file.shown(task.answers, given[i])
        where = f"{origins[i].unit} {origins[i].number} of {origins[i].file}"
        other = f" -> {proposed}" if proposed not in ("", label) else ""
        said.append(" ".join(f"  {where}: {label}{other}".splitlines()))
    print(printable("\n".join(said)))
    out.mkdir(parents=True, exist_ok=True)
    written = [out / table_file.FILE]
    replaced = written[0].exists()
    table_file.write(task, found, by, written[0])
    if found_areas:
        curves = {name: precision(scores.columns[name][known], wrong) for name in found_areas}
        title = f"{task.name}: wrong labels among the most suspect"
        picture.draw(curves, found_areas, int(wrong.sum()), title, out / PICTURE)
        written.append(out / PICTURE)
    elif replaced:
        (out / PICTURE).unlink(missing_ok=True)  # of a table that is no more
    return written


def _counted(task: TaskData) -> str:
    return "sentences have a label that is" if task.answers.kind == TAGS else "labels are"


def _from_run(plan: Plan, run: SavedRun) -> Plan:
    """The plan for a model that starts from what the run has made of it.

    It is the run's own model, by the name that the run knows it by, wherever it lies now.
    """
    name = run.result["model"]
    model = replace(plan.model, name=name, warm_start=str(run.folder.resolve()))
    return replace(plan, model=model)


def _train(
    run: SavedRun,
    task: TaskData,
    found: Found | None,
    by: str,
    options: SuspectOptions,
    folder: Path,
    spent: dict[str, float],
) -> None:
    """Train LoRA on what ``apply`` leaves, and the trusted examples.

    Its result is of a method of its own name, ``suspects_drop`` say, and has the time of the scores
    that it goes by (``spent``) beside that of its training; the trusted ones alone need none.
    """
    from experiments.results import record
    from experiments.suspecting.again import plan_of
    from experiments.suspecting.apply import COUNTED, ONLY_TRUSTED, SCORED, applied, check_left
    from experiments.training.job import execute

    count = options.count
    if count is None and found is not None:
        count = found.scores.estimated
    assert options.apply is not None
    plan = plan_of(run, len(task.train))
    check_left(task, options.apply, count or 0, plan.settings.batch_size)  # of an estimate
    data = applied(task, found, options.apply, by, count or 0)
    if options.apply in ONLY_TRUSTED:  # few: as long as their model among the scores
        size = min(plan.settings.batch_size, len(data.train))
        few: dict[str, Any] = {"epochs": options.trusted_epochs, "batch_size": size}
        config = {**plan.config, "train": {**plan.config["train"], **few}}
        plan = replace(plan, settings=replace(plan.settings, **few), config=config)
    if options.apply == "then_trusted":
        plan = _from_run(plan, run)
    how: dict[str, Any] = {"run": str(run.folder), "apply": options.apply}
    how["trusted"] = len(task.validation or ())
    if options.apply in COUNTED:
        how |= {"score": by, "count": options.count, "suspects": count}
    if options.apply not in ONLY_TRUSTED:
        twice = (
            f"the {how['trusted']} trusted examples are used twice: the suspects were found by "
            "them, and the model is trained on them too"
        )
        data = replace(data, warnings=(*data.warnings, twice))
    plan = replace(
        plan,
        names={**plan.names, "method": f"suspects_{options.apply}"},
        config={**plan.config, "suspects": how},
    )
    values = execute(plan, folder, data)
    if options.apply in SCORED:
        for kind, seconds in spent.items():
            values[kind] = {"scores": round(seconds, 3), **values[kind]}
        record.write(folder, values)
    metric = values["primary_metric"]
    trained = len(data.train)
    told = {
        "pooled": "the likeliest labels, by how sure they are",
        "weight": "learned weights",
        "trusted": "trusted examples alone",
        "then_trusted": "trusted examples alone, from the run's weights",
    }
    what = told.get(options.apply, f"{options.apply} {count} suspects")
    if options.apply == "relabel":  # the likeliest of many labels may be the given one
        pairs = zip(data.train, task.train, strict=False)
        what += f", {sum(new != old for new, old in pairs)} of them to another label"
    print(
        printable(
            f"{what}: LoRA on {trained} examples, trusted ones included: test {metric} "
            f"{record.shown(values['metrics'][metric])}, loss {record.shown(values['test_loss'])}; "
            f"it is in {folder}"
        )
    )


if __name__ == "__main__":
    main()
