"""Judge a run by its record: did it learn, did it over-fit, and is what it found decided.

Each verdict is one line with what to change, and there are only those where there is something to
say: a run without any learned, did not over-fit visibly and decided its ranks. Pure functions of
what the run's folder holds (docs/verdict.md says what each goes by).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from experiments.answers import CHOICES, CLASSES, NUMBER, TAGS, TEXT
from experiments.verdicts import chance

__all__ = ["UPPER_STEPS", "Verdict", "of_run", "of_runs"]

# Upper variables start alike; about so many of Adam's steps of 1e-3 make a difference that shows.
UPPER_STEPS = 50
# Standard errors that are more than noise, two-sided 5 %.
NOISE = 1.96
# A larger class of this share hides what was learned from the accuracy.
LARGE = 0.8

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """Something to know of a run, and what to do about it.

    Attributes:
        about: learned, probe, over-fitting, upper_steps or ranks.
        words: what was found, with its numbers.
        advice: what to change, by the options' names.
    """

    about: str
    words: str
    advice: str

    @property
    def line(self) -> str:
        """Both."""
        return f"{self.words}; {self.advice}"

    def as_json(self) -> dict[str, str]:
        """What result.json says."""
        return asdict(self)


def of_run(values: Record, lines: Sequence[Record], predictions: Sequence[Record]) -> list[Verdict]:
    """The verdicts on a run.

    Args:
        values: what its result.json says.
        lines: of metrics.jsonl.
        predictions: lines of predictions.jsonl.
    """
    fell = _training_loss(values, lines)
    judged = [
        *_learned(values, predictions, fell),
        *_beside_probe(values),
        *_over_fitted(values, lines),
        *_worse_than_shares(values, predictions),
        *_upper_steps(values),
        *_ranks(values),
    ]
    first: dict[str, Verdict] = {}  # one of a kind is enough
    for verdict in judged:
        first.setdefault(verdict.about, verdict)
    return list(first.values())


def of_runs(results: Sequence[Record]) -> list[str]:
    """The verdicts on several runs, a line each, those alike of several seeds in one.

    Args:
        results: result.json of each, with its ``variant`` where it has one.
    """
    found: dict[tuple[str, ...], list[tuple[Any, str]]] = {}
    runs: dict[tuple[str, ...], int] = {}
    for values in results:
        if values.get("of_grid"):  # one of the runs once more
            continue
        run = tuple(str(values.get(k) or "") for k in ("method", "variant", "task", "model"))
        runs[run] = runs.get(run, 0) + 1
        for verdict in values.get("verdict") or ():
            key = (*run, verdict["about"])
            line = f"{verdict['words']}; {verdict['advice']}"
            found.setdefault(key, []).append((values["seed"], line))
    said = []
    for key, entries in sorted(found.items()):
        method, variant, task, model, _ = key
        count = runs[key[:-1]]
        which = f"seed {entries[0][0]}" if count == 1 else f"{len(entries)} of {count} seeds"
        name = " ".join(filter(None, (method, variant)))
        example = "" if len(entries) == 1 else f"seed {entries[0][0]}: "
        said.append(f"{name} on {task}, {model}, {which}: {example}{entries[0][1]}")
    return said


@dataclass(frozen=True)
class _Fall:
    """The training loss in the first and the last quarter of a run's records."""

    first: float
    last: float
    error: float | None

    @property
    def fell(self) -> bool:
        """By more than noise, as far as that can be told."""
        return self.first - self.last > (NOISE * self.error if self.error else 0)

    @property
    def words(self) -> str:
        """From where to where."""
        return f"from {self.first:.3g} to {self.last:.3g}"


def _training_loss(values: Record, lines: Sequence[Record]) -> _Fall | None:
    """None where it is not known, or began low: of a run that was started from another."""
    trained = [line for line in lines if line["kind"] == "train"]
    keys = [key for line in trained for key in line if key.endswith("_loss")]
    key = "lower_loss" if "lower_loss" in keys else (keys or [""])[0]
    losses = [line[key] for line in trained if line.get(key) is not None]
    if len(losses) < 2 or values.get("warm_start"):
        return None
    quarter = math.ceil(len(losses) / 4)
    first, last = losses[:quarter], losses[-quarter:]
    error = math.sqrt((_noise(first) + _noise(last)) / quarter) if quarter > 2 else None
    return _Fall(fmean(first), fmean(last), error)


def _noise(series: Sequence[float]) -> float:
    """Variance about a trend, by successive differences (von Neumann 1941)."""
    return fmean((b - a) ** 2 for a, b in pairwise(series)) / 2


def _learned(
    values: Record, predictions: Sequence[Record], fall: _Fall | None
) -> Iterator[Verdict]:
    """Whether the answers beat a guess without looking, and the training loss its start."""
    trained = values["trainable_parameters"] > 0
    words = _no_better(values, predictions) if trained else None
    if words is None:
        if fall is not None and fall.last >= fall.first:
            yield Verdict(
                "learned",
                f"the training loss did not fall, it went {fall.words}",
                "try another learning rate (train.lr) or train longer (train.epochs)",
            )
        return
    if values.get("probe") is not None:
        advice = "the frozen model says little of this task: fine-tune it, or take another (model)"
    elif fall is not None and fall.fell:
        words += f"; the training loss fell, {fall.words}"
        advice = "give more data, another learning rate (train.lr) or a larger model (model)"
    else:
        if fall is not None:
            how = "hardly fell," if fall.last < fall.first else "did not fall, it went"
            words += f"; the training loss {how} {fall.words}"
        advice = "train longer (train.epochs) or at another learning rate (train.lr)"
    yield Verdict("learned", words, advice)


def _no_better(values: Record, predictions: Sequence[Record]) -> str | None:
    """What the answers do not beat, in words; None where they beat it, or it cannot be told."""
    kind, primary = values.get("kind", ""), values["primary_metric"]
    if kind in ("", TEXT) or len(predictions) < 2:
        return None
    score = values["metrics"][primary]
    name = f"{primary} {score:.3f}" if score is not None else primary
    goes = chance.association(kind, predictions) > NOISE
    if kind in (CLASSES, CHOICES) and primary == "accuracy":
        answer, found = chance.larger_class(kind, predictions)
        if found.z > NOISE or found.other == 1:  # a test of one class shows nothing
            return None
        words = (
            f"accuracy {found.score:.3f} is {_relation(found.z)} always answering {answer!r}, "
            f"{found.other:.3f} (difference {found.difference:+.3f}, standard error "
            f"{found.error:.3f})"
        )
        if goes and found.other >= LARGE:
            words += ", which hides what was learned: macro_f1 would show it"
        elif goes:
            words += ", although its answers go with the right ones"
        return words
    if not goes:
        what = "numbers" if kind == NUMBER else "tags" if kind == TAGS else "answers"
        return f"its {what} go with the right ones no more than by chance ({name})"
    if kind == NUMBER:
        answer, found = chance.larger_class(kind, predictions)
        if found.z >= -NOISE:
            return (
                f"its mean squared error {found.score:.3g} is {_relation(-found.z)} that of always "
                f"answering the mean, {answer}: {found.other:.3g} (standard error of the "
                f"difference {found.error:.2g}), although its numbers go with the right ones "
                f"({name})"
            )
    return None


def _relation(z: float) -> str:
    """Of a gain that is not a significant one."""
    return "worse than" if z < -NOISE else "not shown to be better than"


def _beside_probe(values: Record) -> Iterator[Verdict]:
    """Whether the run beats a linear probe of the same data, where one was fitted beside it."""
    found = values.get("beside_probe")
    if found is None:
        return
    lower = values["kind"] == NUMBER  # squared errors
    gain = (found["score"] - found["other"]) * (-1 if lower else 1)
    z = gain / found["error"] if found["error"] else 0.0
    if z > NOISE:
        return
    what = "mean squared error" if lower else "right answers"
    yield Verdict(
        "probe",
        f"it is {_relation(z)} a linear map on the frozen model's embeddings: {what} "
        f"{found['score']:.3f} against {found['other']:.3f} (standard error of the difference "
        f"{found['error']:.3f})",
        "train longer (train.epochs) or at another learning rate (train.lr), or take "
        f"method=linear_probe, which took {found['seconds']:.0f} s here",
    )


def _over_fitted(values: Record, lines: Sequence[Record]) -> Iterator[Verdict]:
    """Whether the validation loss rose from its lowest while the training loss went on falling."""
    validation = values.get("validation")
    if validation is None or validation["trained_on"]:
        return
    stage = next((line["stage"] for line in reversed(lines) if line["kind"] == "validation"), None)
    series = [
        line
        for line in lines
        if line["kind"] == "validation"
        and line["stage"] == stage
        and None not in (line.get("validation_loss"), line.get("train_loss"))
    ]
    if len(series) < 3:
        return
    best = min(series, key=lambda line: line["validation_loss"])
    last = series[-1]
    # The spread of losses is about their mean (of exponential ones it is): so this is the standard
    # error of one mean of them, and more than that of a difference on the same examples.
    noise = NOISE * best["validation_loss"] / math.sqrt(_evaluated(values, validation))
    rise = last["validation_loss"] - best["validation_loss"]
    if rise <= noise or last["train_loss"] >= best["train_loss"]:
        return
    words = (
        f"over-fitted from step {best['step']} of {last['step']} on: the validation loss rose from "
        f"{best['validation_loss']:.3g} to {last['validation_loss']:.3g} while the training loss "
        f"fell from {best['train_loss']:.3g} to {last['train_loss']:.3g}"
    )
    kept = (values.get("kept") or {}).get(stage) or {}
    if kept.get("weights") == "best":
        if best["step"] <= last["step"] / 2:
            yield Verdict(
                "over-fitting",
                f"{words}; the best weights, of step {kept['step']}, were kept",
                "a shorter training does (train.epochs, or engine.early_stopping=3)",
            )
        return
    yield Verdict(
        "over-fitting", words, "keep the best weights (engine.keep=best), or lower train.epochs"
    )


def _evaluated(values: Record, validation: Record) -> int:
    """Validation examples of an evaluation during training."""
    examples = max(1, int(validation.get("examples") or 1))
    engine = (values.get("configuration") or {}).get("engine")
    most = engine.get("evaluate_examples") if isinstance(engine, dict) else None
    return min(examples, most) if isinstance(most, int) and most > 0 else examples


def _worse_than_shares(values: Record, predictions: Sequence[Record]) -> Iterator[Verdict]:
    """Whether the probabilities cost more on the test than the classes' shares would."""
    train = values["train_loss"]
    if values.get("kind") not in (CLASSES, CHOICES) or len(predictions) < 2 or train is None:
        return
    found = chance.losses(CLASSES, predictions, values.get("labels"))
    if found is None or found.z <= NOISE or train >= found.other:
        return
    yield Verdict(
        "over-fitting",
        f"over-fitted: on the test its loss {found.score:.3g} is higher than that of always giving "
        f"the classes' shares, {found.other:.3g}, and on the training data it is {train:.3g}",
        "give more data, or lower train.epochs or train.lr: the best weights were kept already"
        if any(one.get("weights") == "best" for one in (values.get("kept") or {}).values())
        else "keep the best weights by a validation file (engine.keep=best), or lower train.epochs",
    )


def _upper_steps(values: Record) -> Iterator[Verdict]:
    steps = (values.get("engine") or {}).get("upper_steps") or {}
    for stage, count in steps.items():
        if count < UPPER_STEPS:
            yield Verdict(
                "upper_steps",
                f"the upper level of stage {stage} took {count} steps, and below about "
                f"{UPPER_STEPS} what it learns hardly leaves where it starts",
                "train longer (train.epochs), on more data or in smaller batches "
                "(train.batch_size)",
            )


def _ranks(values: Record) -> Iterator[Verdict]:
    found = values.get("decided")
    if found and found["decided"] is False:
        yield Verdict(
            "ranks",
            str(found["words"]),
            "train longer (train.epochs), or over several seeds: experiments.report says how far "
            "their ranks agree",
        )
