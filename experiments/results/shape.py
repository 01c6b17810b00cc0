"""Say which form result.json, ranks.json and a line of metrics.jsonl must have to be read."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic

from bilevel.errors import UserError

__all__ = ["check_line", "check_ranks", "check_result", "check_stages"]

Numbers = dict[str, float]


class _Shape(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", strict=True, protected_namespaces=())


class _Engine(_Shape):
    T1: int | None
    T2: int | None = None
    steps: dict[str, int]


class _Validation(_Shape):
    loss: float | None = None
    metrics: dict[str, float | None] = {}
    source: str
    trained_on: bool
    digest: str | None = None


class _Decided(_Shape):
    words: str
    decided: bool | None
    near: int | None
    components: int


class _Source(_Shape):
    source: str
    examples: int
    weight: float
    low: float
    high: float
    share: float
    verdict: str | None


class _SourceWeights(_Shape):
    weights: Numbers
    even: float
    records: int
    sources: list[_Source]


class _Probe(_Shape):
    pooling: str
    penalty: float


class _Beside(_Shape):
    score: float
    other: float
    error: float
    seconds: float


class _Verdict(_Shape):
    about: str
    words: str
    advice: str


class _Result(_Shape):
    """What every version has written; later additions have a default."""

    method: str
    task: str
    model: str
    seed: int
    metrics: dict[str, float | None]
    primary_metric: str
    train_loss: float | None
    validation_loss: float | None
    test_loss: float | None
    ranks: dict[str, int] | None
    trainable_parameters: int
    adapter_parameters: int
    head_parameters: int
    examples_seen: Numbers
    seconds: Numbers
    processor_seconds: Numbers
    peak_memory_mib: float
    adapter_dir: str | None = None
    labels: list[str] | None = None
    kind: str = ""
    engine: _Engine | None = None
    entities: dict[str, Numbers] | None = None
    planted: dict[str, Any] | None = None
    true_ranks: dict[str, int] | None = None
    update: dict[str, Any] | None = None
    configuration: dict[str, Any] = {}
    warm_start: dict[str, Any] | None = None
    data_digests: dict[str, str] = {}
    validation: _Validation | None = None
    decided: _Decided | None = None
    cut: str | None = None
    lora: dict[str, Any] | None = None
    source_weights: _SourceWeights | None = None
    probe: _Probe | None = None
    beside_probe: _Beside | None = None
    verdict: list[_Verdict] = []
    threshold: Annotated[float, pydantic.Field(gt=0, lt=1)] | None = None


class _Point(_Shape):
    components: int
    parameters: int
    loss: float
    difference: float
    error: float


class _Ranks(_Shape):
    title: str = ""
    criterion: str
    ranks: dict[str, int] | None
    parameters: int | None
    whole_parameters: int
    frontier: list[_Point] | None
    even: dict[str, _Point] | None = None
    delta: float | None
    errors: float | None = None
    constant: float | None = None
    learned: bool | None = None
    chosen: _Point | None
    examples: int | None = None
    rows: dict[str, list[_Point]] = {}
    decided: _Decided | None = None
    scales: dict[str, Annotated[float, pydantic.Field(gt=0)]] | None = None

    @pydantic.model_validator(mode="after")
    def _whole(self) -> _Ranks:
        lacks = self.learned is None or self.examples is None or self.even is None
        if self.frontier is not None and (lacks or self.delta is None or not self.frontier):
            raise ValueError("'frontier' goes with 'learned', 'examples', 'even' and 'delta'")
        return self


class _Line(_Shape):
    stage: str
    step: int
    kind: str
    gates: dict[str, list[float | None]] | None = None
    singular: dict[str, list[float]] | None = None
    saved: dict[str, list[float]] | None = None
    costs: dict[str, Annotated[int, pydantic.Field(gt=0)]] | None = None


class _Summary(_Shape):
    seconds: float
    processor_seconds: float
    steps: int
    T1: int | None
    T2: int | None
    precision: str
    hypergradient: dict[str, Any] | None
    examples: Numbers
    warnings: list[str] = []
    kept: dict[str, Any] = {}


class _Finished(_Shape):
    outcome: Any
    summary: _Summary | None
    tensors: str | None = None


class _Stages(_Shape):
    config: dict[str, Any]
    stages: dict[str, _Finished]


# Kinds of lines whose further values are numbers.
NUMERIC = ("train", "validation", "watch")


def check_result(values: dict[str, Any], place: str) -> None:
    """Check result.json of a run.

    Raises:
        UserError: a value that is missing or of another type.
    """
    _check(_Result, values, place)
    if values["primary_metric"] not in values["metrics"]:
        raise UserError(f"{place} is damaged: it has no metric {values['primary_metric']!r}")


def check_ranks(values: dict[str, Any], place: str) -> None:
    """Check ranks.json.

    Raises:
        UserError: a value that is missing or of another type.
    """
    _check(_Ranks, values, place)


def check_line(values: Any, place: str) -> None:
    """Check a line of metrics.jsonl.

    Raises:
        UserError: a value that is missing or of another type.
    """
    _check(_Line, values, place)
    if values["kind"] == "gates" and not values.get("gates"):
        raise UserError(f"{place} is damaged: it has no 'gates'")
    if values["kind"] == "singular" and not values.get("singular"):
        raise UserError(f"{place} is damaged: it has no 'singular'")
    for key, value in values.items() if values["kind"] in NUMERIC else ():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if key not in ("stage", "step", "kind") and value is not None and not number:
            raise UserError(f"{place} is damaged: {key} is no number")


def check_stages(values: dict[str, Any], place: str) -> None:
    """Check checkpoints/stages.json.

    Raises:
        UserError: a value that is missing or of another type.
    """
    _check(_Stages, values, place)


def _check(shape: type[_Shape], values: Any, place: str) -> None:
    try:
        shape.model_validate(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        said = first["msg"][:1].lower() + first["msg"][1:]
        raise UserError(f"{place} is damaged: {f'{key!r}: ' if key else ''}{said}") from error
