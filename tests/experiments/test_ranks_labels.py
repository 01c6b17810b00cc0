"""``experiments.ranks adapter=DIR``: its outputs are known by the names in labels.json."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments import ranks
from tests.experiments.refusals import refused
from tests.experiments.training.own_files import Rows, run, sentences, words, write

OTHER = {"neg": "pos", "pos": "neg"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return write(folder, train=sentences(24), validation=uneven(), test=sentences(16, 2))


def uneven() -> Rows:
    """Sentences of which most have the first label."""
    return [row for i, row in enumerate(sentences(48, 1)) if row["label"] == "neg" or i % 4 == 0]


@pytest.fixture(scope="module")
def trained(tiny: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    run(folder, [*words(tiny, data), "method=lora", "engine.evaluate_every=0"])
    return folder / "adapter"


@pytest.fixture
def adapter(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, of nobody's making, whose head prefers the first class."""
    folder = Path(shutil.copytree(trained, tmp_path / "adapter"))
    (folder / "SHA256SUMS").unlink()
    weights = load_file(folder / "adapter_model.safetensors")
    (bias,) = (name for name in weights if "classifier" in name and name.endswith("bias"))
    weights[bias] = torch.tensor([1.0, -1.0])
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def asked(tiny: Path, adapter: Path, data: Path, out: Path) -> list[str]:
    given = [word for word in words(tiny, data) if word.startswith(("model", "task"))]
    return [f"adapter={adapter}", *given, f"out={out}"]


def loss(out: Path) -> float:
    """Of the whole adapter on the held-out examples."""
    found = json.loads((out / "ranks.json").read_text())
    return float(
        next(
            point["loss"]
            for point in found["frontier"]
            if point["parameters"] == found["whole_parameters"]
        )
    )


def call(folder: Path, *names: str) -> None:
    """Give the outputs other names."""
    values = {"id2label": {str(i): name for i, name in enumerate(names)}}
    (folder / "labels.json").write_text(json.dumps(values))


def flipped(rows: Rows) -> Rows:
    return [{**row, "label": OTHER[str(row["label"])]} for row in rows]


def test_labels_are_matched_by_their_names(
    tiny: Path, adapter: Path, data: Path, tmp_path: Path
) -> None:
    """Not by their order in the data: other names of the outputs are other labels of the rows."""
    other = write(
        tmp_path / "other",
        train=flipped(sentences(24)),
        validation=flipped(uneven()),
        test=sentences(16, 2),
    )
    ranks.main(asked(tiny, adapter, data, tmp_path / "right"))
    ranks.main(asked(tiny, adapter, other, tmp_path / "flipped"))
    call(adapter, "pos", "neg")
    ranks.main(asked(tiny, adapter, data, tmp_path / "swapped"))
    swapped = loss(tmp_path / "swapped")
    assert swapped == pytest.approx(loss(tmp_path / "flipped"), rel=1e-6)
    assert swapped != pytest.approx(loss(tmp_path / "right"), rel=1e-3)


def test_data_of_other_labels_are_refused(
    tiny: Path, adapter: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(adapter, "neg", "10")
    said = refused(ranks.main, asked(tiny, adapter, data, tmp_path / "out"), capsys)
    assert "labels neg, 10" in said
    assert "has pos" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "values",
    [
        {"id2label": {"0": "neg", "2": "pos"}},
        {"id2label": {"0": "neg", "1": ["pos"]}},
        {"id2label": ["neg", "pos"]},
        {"labels": {}},
    ],
)
def test_a_damaged_file_of_labels_is_told(
    values: object,
    tiny: Path,
    adapter: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (adapter / "labels.json").write_text(json.dumps(values))
    assert "labels.json" in refused(ranks.main, asked(tiny, adapter, data, tmp_path / "o"), capsys)


def test_outputs_without_names_are_taken_in_the_datas_order_and_it_is_said(
    tiny: Path, adapter: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (adapter / "labels.json").unlink()
    with caplog.at_level(logging.WARNING):
        ranks.main([*asked(tiny, adapter, data, tmp_path / "out"), "rank=1"])
    assert "neg, pos" in caplog.text


def test_names_stay_with_what_is_cut(tiny: Path, adapter: Path, tmp_path: Path) -> None:
    """Where no data are given, the folder's own."""
    out = tmp_path / "out"
    ranks.main([f"adapter={adapter}", f"model.pretrained={tiny}", "rank=1", f"out={out}"])
    for layout in ("adapter", "adapter_compact"):
        values = json.loads((out / "ranks" / layout / "labels.json").read_text())
        assert values["id2label"] == {"0": "neg", "1": "pos"}
