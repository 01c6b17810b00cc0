"""The benchmark of source weights on texts: its data, what it asks for, its losses."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import text_mixture
from benchmarks.text_mixture import WAYS, losses, make_base, run, write_data
from tests.benchmarks.asked import Asked

SIZE, TRUSTED, TESTED, LEFT = 30, 8, 5, 4


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Each meaning twice; some of the test's are in the training file too."""
    for name, value in (("SIZE", SIZE), ("TRUSTED", TRUSTED), ("TESTED", TESTED)):
        monkeypatch.setattr(text_mixture, name, value)
    numbers = range(2 * SIZE + TRUSTED + LEFT)
    e2e = {
        "train": [(f"name[{i}]", f"this is {i}, {j}") for i in numbers for j in "ab"],
        "test": [(f"name[{i}]", f"this is {i}, {j}") for i in range(-8, LEFT) for j in "ab"],
    }
    triples = [["a_b | c | d", "e | f | g"]] * (SIZE + 2)
    webnlg = pd.DataFrame({"triples": triples, "references": [["text", "other"]] * (SIZE + 2)})
    dart = pd.DataFrame(
        {
            "tripleset": [[["s", "p", "o"]]] * 12,
            "references": [[f"says {i}"] for i in range(12)],
            "sources": [["e2e"] if i % 3 == 0 else ["webnlg"] for i in range(12)],
        }
    )
    found = {name: tmp_path / name for name in ("e2e", "webnlg", "dart")}
    for folder in found.values():
        folder.mkdir()
    for name, rows in e2e.items():
        columns = ["meaning_representation", "human_reference"]
        pd.DataFrame(rows, columns=columns).to_parquet(found["e2e"] / f"{name}.parquet")
    webnlg.to_parquet(found["webnlg"] / "train.parquet")
    for name in ("test", "validation"):
        dart.to_parquet(found["dart"] / f"{name}.parquet")
    return found


def read(folder: Path) -> dict[str, pd.DataFrame]:
    return {path.stem: pd.read_json(path, lines=True) for path in folder.glob("*.jsonl")}


def number(text: str) -> str:
    return text.removeprefix("name[").removesuffix("]")


def test_sources_are_apart_and_what_they_are_called(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    write_data(folders["e2e"], folders["webnlg"], tmp_path / "data", seed=0)
    parts = read(tmp_path / "data")
    assert {name: len(rows) for name, rows in parts.items()} == {
        **{"e2e": SIZE, "shuffled": SIZE, "webnlg": SIZE},
        **{"validation": TRUSTED, "test": TESTED},
    }
    of_e2e = pd.concat([parts[n].given for n in ("e2e", "shuffled", "validation", "test")])
    assert not of_e2e.duplicated().any()  # no meaning of the test set is trained on either
    for name in ("e2e", "validation", "test"):
        for row in parts[name].itertuples():
            assert row.text.startswith(f"this is {number(row.given)}, ")
    wrong = [
        not row.text.startswith(f"this is {number(row.given)}, ")
        for row in parts["shuffled"].itertuples()
    ]
    assert np.mean(wrong) > 0.8
    assert set(parts["webnlg"].given) == {"a_b : c : d | e : f : g"}
    write_data(folders["e2e"], folders["webnlg"], tmp_path / "other", seed=1)
    assert not read(tmp_path / "other")["e2e"].equals(parts["e2e"])


def test_the_base_has_not_read_e2e(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_mixture, "HELD", 2)
    asked = Asked(monkeypatch)
    make_base(folders["dart"], tmp_path / "base")
    parts = read(tmp_path / "base")
    texts = [*parts["train"].text, *parts["validation"].text]
    assert len(texts) == 16
    assert all(int(text.split()[1]) % 3 for text in texts)
    plan = asked.plan()
    assert plan.model.pretrained == str((tmp_path / "base" / "start").resolve())
    assert plan.task.target_column == "text"


@pytest.mark.parametrize("way", list(WAYS))
def test_every_way_asks_for_options_that_there_are(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(monkeypatch)
    run(tmp_path, tmp_path, way, 4)
    plan = asked.plan()
    alone = way == "trusted"
    assert set(plan.task.sources) == ({"trusted"} if alone else {"e2e", "shuffled", "webnlg"})
    assert (plan.task.keep_sources is not None) == (way == "e2e")
    assert (plan.task.source_weights is not None) == (way == "under_weights")


def test_losses_are_of_tokens(tmp_path: Path) -> None:
    rows = [{"loss": 1.0, "terms": 1}, {"loss": 3.0, "terms": 3}]
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert losses(tmp_path).tolist() == [0.5, 4.5]
    assert losses(tmp_path).mean() == (1 + 9) / 4
