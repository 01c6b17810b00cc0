"""Hold the cuts of trained adapters against their competitors, on a test set that chose nothing.

    python -m benchmarks.rank_evidence --out FILE.csv [--criteria singular,activation] DIR ...

Every DIR holds runs of one task and one seed on the same data, in folders whose names say what they
are: ``lora80`` (LoRA at rank 8 with method.hold_out=0.2), which is cut; ``r1``, ``r2``, ``r4``,
``r8`` (LoRA trained at that rank on all of the training data), ``adalora``, ``autolora`` and the
like, which are compared with it where they are there. For each criterion: the frontier's choice on
the held-out examples, and the parts of 50, 25 and 12.5 %; even and random (three draws) truncations
of the same adapter. A line each: test loss and score, their difference to the whole adapter of
``lora80`` (of the loss paired over test examples, with its standard error), ranks, processor time.
``chosen 1`` and ``chosen 2`` are the choices with one and two standard errors to spare. LoRA
trained at a rank is held against the cut of as many components too, by the first of the criteria
(``cut_difference``, trained less cut, with ``cut_error``), and rank 8 against the whole. ``r8`` is
cut to the same shares too (``r8 cut``, by the singular values; its differences are to ``r8``, and
``lora80`` need not be there), for a comparison in which both had all of the data; none of them are
left to choose a size by then.
What is in FILE.csv already is not measured again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.lines import EXAMPLES, measure
from bilevel.cutting import Budget, Criterion, Frontier, Losses, Ranking, cut
from bilevel.cutting.criteria import ScoringData
from bilevel.cutting.criteria.registry import CRITERIA
from bilevel.cutting.held_out import BATCH, halves
from bilevel.cutting.losses import difference
from bilevel.cutting.ranking import masked
from bilevel.lowrank.ranks import Keep
from experiments.cli.command_line import CommandLine
from experiments.results import record, saved_model
from experiments.results.finished_run import SavedRun
from experiments.training.scoring import by_test, outputs_of
from experiments.training.trained_adapter import Trained, of_run

CUT = "lora80"
ON_ALL = "r8"  # LoRA at the same rank, trained on all of the data
ON_ALL_CUT = f"{ON_ALL} cut"
SHARES = (0.5, 0.25, 0.125)
HELD_OUT, DELTA = 512, 0.02
ERRORS = (1, 2)
RANDOM_DRAWS = 3
FIELDS = (
    *("task", "seed", "what", "share", "components", "parameters", "test_loss", "difference"),
    *("error", "score", "score_difference", "delta", "learned", "seconds", "frontier_seconds"),
    *("cut_difference", "cut_error", "run_seconds", "ranks"),
)


class Measured:
    """A model on a task's test set."""

    def __init__(self, trained: Trained) -> None:
        assert trained.task is not None
        self.task, self.tokenizer = trained.task, trained.loaded.tokenizer
        self.collate = self.task.collator(self.tokenizer)
        self.tests = {n: trained.loaded.tokenise(self.task, r) for n, r in self.task.tests.items()}

    def __call__(self, model: torch.nn.Module) -> tuple[Losses, float | None]:
        """Losses of the test examples, and the primary score (of text: none)."""
        every = [row for rows in self.tests.values() for row in rows]
        found: list[Any] = [None] * len(every)
        totals, terms = np.zeros(len(every)), np.zeros(len(every), dtype=int)
        with torch.no_grad(), outputs_of(model, every, self.collate) as each:
            for indices, outputs, batch in each:
                loss, count = self.task.example_losses(outputs, batch)
                totals[indices], terms[indices] = loss.numpy(), count.numpy()
                for i, said in zip(indices, self.task.predictions(outputs, batch), strict=True):
                    found[i] = said
        scores = self.task.score(by_test(found, self.tests))
        return Losses(totals, terms), scores.get(self.task.primary_metric)


def processor_seconds(values: dict[str, Any]) -> float:
    """Of a run's training."""
    return sum(values["processor_seconds"].values())


def lines(folder: Path, criteria: list[Criterion], done: set[str]) -> Iterator[dict[str, Any]]:
    """What is to be said of one task and seed.

    Args:
        folder: with the runs.
        criteria: to cut by.
        done: what has been measured already.
    """
    if (folder / ON_ALL / record.FILE).is_file() and ON_ALL_CUT not in done:
        yield from cut_on_all(folder / ON_ALL)
    if (folder / CUT / record.FILE).is_file():
        yield from against_cut(folder, criteria, done)


def cut_on_all(folder: Path) -> Iterator[dict[str, Any]]:
    """The parts of a run on all of the data, by the singular values; differences are to the run."""
    run = SavedRun.open(str(folder), CommandLine.parse([]), [])
    trained = of_run(run, [])
    test = Measured(trained)
    whole, whole_score = test(trained.model)
    ranking = cut(trained.model, CRITERIA["singular"](), budget=Budget(budget=0.5)).ranking
    for share in SHARES:
        keep = ranking.within(int(share * ranking.total))
        with masked(trained.model, keep):
            losses, found = test(trained.model)
        d = difference(losses, whole)
        ranks = [int(mask.sum()) for mask in keep.values()]
        yield {
            **{"task": run.result["task"], "seed": run.result["seed"], "what": ON_ALL_CUT},
            **{"share": share, "components": sum(ranks), "parameters": ranking.cost(keep)},
            **{"test_loss": losses.mean, "difference": d.mean, "error": d.error},
            **{EXAMPLES: _shares(losses, whole), "ranks": " ".join(map(str, ranks))},
            **{"score": found, "run_seconds": processor_seconds(run.result)},
            "score_difference": None
            if found is None or whole_score is None
            else found - whole_score,
        }


def against_cut(
    folder: Path, criteria: list[Criterion], done: set[str]
) -> Iterator[dict[str, Any]]:
    """The cuts of LoRA on 80 % of the data, and the others; differences are to it, whole."""
    run = SavedRun.open(str(folder / CUT), CommandLine.parse([]), [])
    trained = of_run(run, [])
    test = Measured(trained)
    whole, whole_score = test(trained.model)
    cuts: dict[int, Losses] = {}  # by components
    cost = processor_seconds(run.result)

    def line(what: str, losses: Losses, found: float | None, **more: Any) -> dict[str, Any]:
        d = difference(losses, whole)
        unscored = found is None or whole_score is None
        scores = None if unscored else found - whole_score  # type: ignore[operator]
        return {
            **{"task": run.result["task"], "seed": run.result["seed"], "what": what},
            **{"test_loss": losses.mean, "difference": d.mean, "error": d.error},
            EXAMPLES: _shares(losses, whole),
            **{"score": found, "score_difference": scores, "run_seconds": cost, **more},
        }

    def part(what: str, ranking: Ranking, keep: Keep, **more: Any) -> dict[str, Any]:
        with masked(trained.model, keep):
            losses, found = test(trained.model)
        ranks = [int(mask.sum()) for mask in keep.values()]
        sizes = {"components": sum(ranks), "parameters": ranking.cost(keep)}
        if what in (criteria[0].name, "whole"):
            cuts[sum(ranks)] = losses
        return line(what, losses, found, **sizes, ranks=" ".join(map(str, ranks)), **more)

    ordered: Ranking | None = None
    for criterion in criteria:
        if criterion.name in done:
            continue
        rows, drawing = halves(trained.held_out.rows, HELD_OUT, criterion)
        started = time.process_time()
        data = scoring(trained, rows) if rows else None
        ranking = cut(trained.model, criterion, budget=Budget(budget=0.5), scoring=data).ranking
        seconds = time.process_time() - started
        # the factors are in the criterion's basis now; the frontier anew, timed by itself
        started = time.process_time()
        drawn = choices(trained, ranking, drawing)
        more = {
            **{"seconds": round(seconds, 2), "learned": drawn[0].learned, "delta": drawn[0].delta},
            "frontier_seconds": round(time.process_time() - started, 2),
        }
        for share in SHARES:
            keep = ranking.within(int(share * ranking.total))
            yield part(criterion.name, ranking, keep, share=share, **more)
        for frontier in drawn:
            if frontier.chosen is not None:
                keep = ranking.first(frontier.chosen)
                said = f"chosen {frontier.errors:g}"
                yield part(criterion.name, ranking, keep, share=said, **more)
        if criterion.name == "singular" and "whole" not in done:
            yield from _plain(trained, ranking, part, more)
    for path in sorted(folder.iterdir()):
        values = record.read(path)
        if values is None or path.name == CUT or path.name in done:
            continue
        other = SavedRun.open(str(path), CommandLine.parse([]), [])
        saved = record.saved_folder(values, path)
        model = saved_model.load(saved, other.base(trained.task).model).eval()  # type: ignore[arg-type]
        losses, reached = test(model)
        ranks = " ".join(map(str, (values["ranks"] or {}).values()))
        extra = {"parameters": values["adapter_parameters"], "ranks": ranks}
        extra |= {"run_seconds": processor_seconds(values)}
        components = sum((values["ranks"] or {}).values())
        extra |= {"components": components}
        if components not in cuts and ordered is None:  # the model may be in another's basis
            rows, _ = halves(trained.held_out.rows, HELD_OUT, criteria[0])
            data = scoring(trained, rows) if rows else None
            budget = Budget(budget=0.5)
            ordered = cut(trained.model, criteria[0], budget=budget, scoring=data).ranking
        if ordered is not None and components not in cuts and components <= len(ordered.order):
            with masked(trained.model, ordered.first(components)):
                cuts[components], _ = test(trained.model)
        if components in cuts:
            d = difference(losses, cuts[components])
            extra |= {"cut_difference": d.mean, "cut_error": d.error}
        yield line(path.name, losses, reached, share="trained", **extra)


def _shares(losses: Losses, whole: Losses) -> np.ndarray:
    """Each example's part of the difference of means, (n,): their mean is the difference.

    With sums d_i over n_i words: m + (d_i - m n_i) N / sum n, by which the mean's standard error is
    that of the ratio of sums.
    """
    apart, terms = losses.totals - whole.totals, whole.terms.astype(float)
    mean = apart.sum() / terms.sum()
    return mean + (apart - mean * terms) * len(terms) / terms.sum()


def scoring(trained: Trained, rows: list[dict[str, Any]]) -> ScoringData:
    """What a criterion is given of these examples."""
    batches = [dict(trained.collate(rows[i : i + BATCH])) for i in range(0, len(rows), BATCH)]
    return ScoringData(batches, lambda: trained.losses(rows))


def choices(trained: Trained, ranking: Ranking, rows: list[dict[str, Any]]) -> list[Frontier]:
    """Frontiers of components that are in order already, one for each of :data:`ERRORS`."""
    known: dict[tuple[bool, ...], Losses] = {}

    def of(keep: Keep) -> Losses:
        key = tuple(torch.cat(list(keep.values())).tolist())
        if key not in known:
            with masked(trained.model, keep):
                known[key] = trained.losses(rows)
        return known[key]

    return [Frontier.draw(ranking, of, DELTA, errors) for errors in ERRORS]


def _plain(
    trained: Trained, ranking: Ranking, part: Any, more: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The whole, nothing, and even and random truncations of the same adapter, singular basis."""
    count = len(ranking.order)
    yield part("whole", ranking, ranking.first(count), share=1, **more)
    yield part("nothing", ranking, ranking.first(0), share=0, **more)
    longest = max(len(row) for row in ranking.scores.values())
    for share in SHARES:
        yield part("even", ranking, ranking.even(round(share * longest)), share=share)
    for draw in range(RANDOM_DRAWS):
        numbers = np.random.default_rng(draw)
        scores = {
            name: torch.from_numpy(numbers.random(len(row))) for name, row in ranking.scores.items()
        }
        at_random = Ranking(scores, ranking.costs)
        for share in SHARES:
            keep = at_random.within(int(share * ranking.total))
            yield part(f"random{draw}", ranking, keep, share=share)


def _whole(row: dict[str, Any]) -> str:
    """What is measured together: even and random truncations with the criterion ``singular``."""
    plain = row["what"] in ("whole", "nothing", "even") or row["what"].startswith("random")
    return "singular" if plain else row["what"]


def _key(folder: Path) -> dict[str, str]:
    values = record.read(folder / CUT) or record.read(folder / ON_ALL)
    if values is None:
        raise SystemExit(f"{folder} has neither a finished run {CUT} nor {ON_ALL}")
    return {"task": values["task"], "seed": str(values["seed"])}


if __name__ == "__main__":
    measure(str(__doc__), FIELDS, _key, lines, _whole)
