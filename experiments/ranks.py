"""Find the smallest part of a LoRA adapter that loses next to nothing: a rank for every layer.

    python -m experiments.ranks run=DIR [criterion=singular] [budget=0.25 | parameters=N | rank=R]
    python -m experiments.ranks adapter=DIR model.pretrained=... [task=... task.data_dir=...]

Of a finished run that ended in LoRA, or of anybody's PEFT adapter. The components of all layers
are ordered together, by their singular values unless ``criterion`` says otherwise, and the loss is
drawn against the parameters kept, on ``examples`` (512) that the weights never trained on: what
``method.hold_out`` kept, or the task's validation file; never the test set. Chosen is the smallest
part that, like all larger ones, loses no more than ``delta`` (0.02) of what was learned, ``errors``
(2) standard errors of the difference included. With ``budget`` (a share), ``parameters`` or
``rank`` (a mean) that is taken instead, which needs no data.

It writes ranks.json, and ``ranks/`` with both adapter layouts, lora_config.json and frontier.png,
into the folder (``out=DIR`` for another), in the place of what a cut before has left there. A run
that cut itself (``method=lora_cut``) keeps its own: it needs ``out``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bilevel.cutting.budget import Budget
from bilevel.cutting.options import CutOptions
from bilevel.errors import UserError, printable
from experiments.cli.command_line import CommandLine
from experiments.cli.own_options import own_options
from experiments.cli.program import program
from experiments.cli.quiet import quiet
from experiments.results import ranks_folder, record
from experiments.results.finished_run import SavedRun

if TYPE_CHECKING:
    from bilevel.cutting import Cut
    from bilevel.cutting.decided import Decided
    from experiments.training.trained_adapter import Trained

__all__ = ["RankOptions", "describe", "find_ranks", "main"]

GROUPS = ("model", "task")  # of the configuration, that have a say here


@dataclass(frozen=True)
class RankOptions(CutOptions, Budget):
    """What this program is told besides the run and its configuration."""


def find_ranks(trained: Trained, options: RankOptions) -> Cut:
    """Order the components, draw the frontier where there are examples, and choose.

    Raises:
        UserError: there is neither a budget nor examples to choose by, or too few of them.
    """
    from bilevel.cutting import cut_by, least_examples
    from experiments.training.trained_adapter import TOLD
    from experiments.training.untrained import ASK

    criterion = options.named()
    rows, why = trained.held_out.rows, trained.held_out.source
    if not rows and not options.told:
        raise UserError(f"{why}; {TOLD}")
    if not rows and criterion.needs_data:
        raise UserError(f"criterion={options.criterion} needs held-out examples: {why}")
    least = least_examples(criterion)
    if len(rows) < least and (criterion.needs_data or not options.told):
        also = "" if criterion.needs_data else f"; {TOLD}"
        raise UserError(
            f"a cut by criterion={options.criterion} needs {least} held-out examples or more that "
            f"the weights never trained on, not {len(rows)} ({why}): {ASK}{also}"
        )
    return cut_by(
        trained.model, rows, options, options, collate=trained.collate, losses=trained.losses
    )


def describe(cut: Cut, trained: Trained, decided: Decided | None = None) -> str:
    """The frontier, what was chosen and the ranks, for the terminal."""
    from experiments.results.frontier_table import frontier_table
    from experiments.results.rank_table import rank_table

    ranking, frontier = cut.ranking, cut.frontier
    total = len(ranking.order)
    lines = [f"{trained.title}: {total} components, {ranking.total:,} adapter parameters"]
    said = trained.result.get("adapter_parameters")
    if said is not None and said < ranking.total:
        lines.append(
            f"(the run counts {said:,}, without the zeros that fill up factors of fused layers, "
            "whose queries and values it trained apart; budgets here count them)"
        )
    if frontier is not None:
        lines[0] += f"; losses of {frontier.examples} examples ({trained.held_out.source})"
        kept = None if cut.ranks is None else sum(cut.ranks.values())
        lines.append(frontier_table(frontier, None if kept == frontier.chosen else kept))
    if cut.ranks is not None:
        kept = sum(cut.ranks.values())
        lines.append(f"ranks ({kept} of {total} components, by {cut.criterion}):")
        lines.append(rank_table(cut.ranks))
    if decided is not None:
        lines.append(decided.words)
    return "\n".join(lines)


@program(lambda: str(__doc__))
def main(words: list[str]) -> None:
    """The program."""
    line = CommandLine.of_one(words)
    options, own, overrides = own_options(
        RankOptions, line.overrides, GROUPS, "run", "adapter", "out"
    )  # of its own options, own has the words that were given
    if (own["run"] is None) == (own["adapter"] is None):
        both = ", not both" if own["run"] is not None else ""
        raise UserError(
            f"say what to cut: run=DIR, a finished run, or adapter=DIR, a PEFT adapter{both}"
        )
    if (Path(own["run"] or "") / "adapter_config.json").is_file():
        raise UserError(f"run={own['run']}: this is an adapter's folder, say adapter={own['run']}")
    out = Path(own["out"] or own["run"] or own["adapter"] or "")
    run = None if own["run"] is None else SavedRun.open(own["run"], line, overrides)
    ranks_folder.refuse_others(out)
    if run is not None and out.resolve() == run.folder.resolve():
        _refuse_its_own(run)
    elif own["out"] is not None and (out / record.FILE).exists():
        raise UserError(
            f"out={out}: this is the folder of another run, whose {ranks_folder.FILE} says how it "
            "was cut: give another folder"
        )
    quiet()
    from bilevel.cutting import least_examples
    from experiments.training import trained_adapter

    least = least_examples(options.named())
    if options.examples < least:
        raise UserError(
            f"examples={options.examples}: criterion={options.criterion} needs {least} or more"
        )
    needs_examples = not options.told or options.named().needs_data
    if run is not None:
        trained = trained_adapter.of_run(run, overrides, needs_examples)
    else:
        folder = Path(own["adapter"] or "")
        trained = trained_adapter.of_folder(folder, overrides, line.config_dir, needs_examples)
    idle = [name for name in ("delta", "errors", "examples") if own[name] is not None]
    if idle and options.told and not trained.held_out.rows:
        raise UserError(
            f"{idle[0]}={own[idle[0]]} is of the frontier, and none is drawn: "
            f"{trained.held_out.source}"
        )
    found = find_ranks(trained, options)
    decided = _decided(found, trained)
    print(printable(describe(found, trained, decided)))
    for path in _save(found, trained, decided, out):
        print(printable(str(path)))


def _refuse_its_own(run: SavedRun) -> None:
    """A run whose method cut what it trained has a ranks.json of its own, beside its result."""
    method = run.result.get("configuration", {}).get("method")
    cut_itself = isinstance(method, dict) and "criterion" in method
    if cut_itself and (run.folder / ranks_folder.FILE).exists():
        raise UserError(
            f"run={run.folder}: its {ranks_folder.FILE} says how {run.result['method']} cut it, "
            "and would be replaced: give a folder for a cut of what it kept, out=DIR"
        )


def _decided(cut: Cut, trained: Trained) -> Decided | None:
    from experiments.results.metrics_file import read_metrics
    from experiments.training.decided_ranks import of_cut

    return of_cut(cut, None if trained.run is None else read_metrics(trained.run))


def _save(cut: Cut, trained: Trained, decided: Decided | None, out: Path) -> list[Path]:
    """Write what was found; returns the files and folders."""
    import shutil

    from bilevel.lowrank import lora_scales
    from experiments.artefacts import ranks_file
    from experiments.plots import frontier

    values = {
        "title": trained.title,
        **cut.as_json(),
        "examples_from": trained.held_out.source,
        "scales": lora_scales(trained.model),
        "decided": None if decided is None else decided.as_json(),
    }
    place, folder = out / ranks_file.FILE, out / ranks_file.FOLDER
    written = [place]
    if cut.keep is None:  # what a cut before has left there is no longer what ranks.json says
        shutil.rmtree(folder, ignore_errors=True)
    else:
        report = ranks_file.save_cut(
            trained.model, cut, decided, folder, trained.artefact(), trained.result
        )
        written += [report.adapter, report.compact, folder / ranks_file.CONFIG]
    ranks_file.write(values, place)
    picture = folder / ranks_file.PICTURE
    return [*written, *([picture] if frontier.draw(values, picture) else [])]


if __name__ == "__main__":
    main()
