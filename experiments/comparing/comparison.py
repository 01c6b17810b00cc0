"""Hold what a comparison of methods found, as plain values that a table or a page can show."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "CONFIDENCE",
    "LEVEL",
    "LOSS",
    "Comparison",
    "Difference",
    "Family",
    "Method",
    "RunScore",
    "as_json",
]

LEVEL = 0.05
CONFIDENCE = 1 - LEVEL
LOSS = "test loss"
SMALLEST = 0.001  # p that is written out


@dataclass(frozen=True)
class RunScore:
    """A run's test score with its interval over test examples (none without predictions)."""

    folder: str | None
    seed: int
    score: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Method:
    """Runs that differ in their seed alone.

    Attributes:
        method, variant: as the report tells them apart; ``name`` is both.
        runs: by seed.
        examples: test examples; None without predictions.
        score: mean over seeds of the test score; None where a run has none.
        low, high: its interval over seeds and examples; of one seed over the examples alone. None
            where it is not known.
        validation: mean over seeds of what the runs are sorted by, the larger the better; None
            without validation data in one of them.
        validation_shown: the same as it is shown, the score or the loss.
        trained_on: whether a level of the method trains on its validation data, so that its score
            there is no choice by unseen data.
        test_loss, parameters, processor_seconds: means over seeds; parameters are those saved, head
            included.
        on_front: no other method has a score as good with as few parameters.
        best: the best by validation.
    """

    method: str
    variant: str
    runs: list[RunScore]
    examples: int | None
    score: float | None
    low: float | None
    high: float | None
    validation: float | None
    validation_shown: float | None
    trained_on: bool
    test_loss: float | None
    parameters: float
    processor_seconds: float
    on_front: bool = False
    best: bool = False

    @property
    def name(self) -> str:
        """Method and variant."""
        return f"{self.method} {self.variant}".strip()

    @property
    def seeds(self) -> list[int]:
        """Those of its runs."""
        return [run.seed for run in self.runs]


@dataclass(frozen=True)
class Difference:
    """A method less the baseline, over the seeds and test examples that both have.

    Attributes:
        name: of the method.
        seeds: in common; with one the interval covers the examples alone.
        examples: in common.
        mean, low, high: the difference with its interval, not adjusted for the family.
        p: least level at which that interval leaves out 0.
        p_holm: the same, adjusted for the family by Holm's step-down.
        shares: of the squared standard error that come of seeds, examples, and the rest.
    """

    name: str
    seeds: list[int]
    examples: int
    mean: float
    low: float
    high: float
    p: float
    p_holm: float
    shares: tuple[float, float, float]

    @property
    def shown(self) -> bool:
        """Whether the methods are told apart, the whole family at 5 %."""
        return self.p_holm < LEVEL

    @property
    def p_words(self) -> str:
        """The adjusted p as tables show it."""
        return "<0.001" if self.p_holm < SMALLEST else f"{self.p_holm:.3f}"


@dataclass(frozen=True)
class Family:
    """All differences of one measure to the baseline: the family that Holm's step-down is over."""

    measure: str
    higher_is_better: bool
    differences: list[Difference] = field(default_factory=list)

    def word(self, difference: Difference) -> str:
        """What one of them shows, as every table and sentence has it."""
        if not difference.shown:
            return "no difference shown"
        return "better" if (difference.mean > 0) == self.higher_is_better else "worse"

    @property
    def adjustment(self) -> str:
        """How p is adjusted, over how many comparisons."""
        many = len(self.differences)
        over = f"these {many} comparisons" if many > 1 else "this one comparison"
        return f"p adjusted by Holm's step-down over {over}"


@dataclass(frozen=True)
class Comparison:
    """All that was run on one task with one model.

    Attributes:
        task, model: of all runs.
        metric: what scores are of, and whether more of it is better.
        chosen_by: what ``validation_shown`` is: the metric, or the loss.
        methods: the best by validation first; without validation data at the end, by name.
        baseline: name of the method that the others are compared with; None where there is none.
        baseline_reason: why that one.
        families: of the metric and of the loss.
        notes: what could not be compared, and why, a sentence each.
    """

    task: str
    model: str
    metric: str
    higher_is_better: bool
    chosen_by: str
    methods: list[Method]
    baseline: str | None
    baseline_reason: str
    families: list[Family]
    notes: list[str]


def as_json(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """All numbers, as comparison.json has them; docs/comparing.md explains each."""
    return {
        "schema_version": 1,
        "program": "report",
        "confidence": CONFIDENCE,
        "comparisons": [
            {
                **dataclasses.asdict(c),
                "methods": [
                    {"name": m.name, **dataclasses.asdict(m), "seeds": m.seeds} for m in c.methods
                ],
                "families": [
                    {
                        **dataclasses.asdict(family),
                        "differences": [
                            {**dataclasses.asdict(d), "shown": d.shown} for d in family.differences
                        ],
                    }
                    for family in c.families
                ],
            }
            for c in comparisons
        ],
    }
