"""The benchmark of the implicit term: its own reference, and its table."""

import json
import math
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks import implicit_term
from bilevel.hypergradient import FiniteDifference, check
from experiments.tasks.demo import Demo
from tests.benchmarks.small import table


@pytest.fixture
def options(tmp_path: Path) -> Namespace:
    """SST-2's columns, sentences of the demo; the built-in model after one step."""
    rows = [{"sentence": e.texts[0], "label": e.label} for e in Demo(max_train=200).load().train]
    for name, count in (("train", 10), ("validation", 1)):
        text = "".join(json.dumps(row) + "\n" for row in rows * count)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return Namespace(data_dir=str(tmp_path), model="demo", steps=1, batches=1, unroll=[1])


def test_a_difference_comes_near_the_exact_mixed_product(options: Namespace) -> None:
    engine = implicit_term.engine_at(options, 1, "fp32")
    central = FiniteDifference(difference="central", epsilon=1e-2)
    (found,) = check(engine, [central], 1, reference=implicit_term.ExactMixedProduct())
    assert found.cosine == pytest.approx(1, abs=1e-4)
    assert found.relative_error < 1e-2


@pytest.mark.slow
def test_the_table_holds_estimators_against_the_exact_term(
    options: Namespace, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (row,) = implicit_term.by_steps(options)
    head, cells = table(capsys.readouterr().out)
    assert [cells[0], len(cells)] == ["1", len(head)]
    told = dict(zip(head, cells, strict=True))
    exact = float(told["exact implicit"])
    assert exact == pytest.approx(row["exact"], abs=1e-5)
    # With one lower step there is nothing that depth=1 or sama could leave out.
    for name in ("unrolled depth 1", "sama"):
        cosine, norm = map(float, told[f"{name}: cos / norm"].split(" / "))
        assert cosine == pytest.approx(1, abs=0.01)
        assert norm == pytest.approx(row["exact"], rel=0.1)
    assert not any(math.isnan(value) for value in row.values())
    implicit_term.draw([row, {**row, "T1": 4}], tmp_path / "figures" / "term.png")
    assert (tmp_path / "figures" / "term.png").stat().st_size > 1000
