"""Tensors that a stage found reach the stage after it, resumed or not, bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bilevel.errors import UserError
from experiments.training.finished_stages import Journal

CONFIG = {"a": 1}


def found() -> dict[str, Any]:
    """Of several precisions and layouts, nested, and some plain data between them."""
    torch.manual_seed(0)
    factors = torch.randn(4, 6, requires_grad=True)
    return {
        "ranks": {"layer.0/a": 3, "layer.1": 0},
        "factors": {"layer.0/a": {"A": factors[:2], "B": factors.T}, "layer.1": {}},
        "keep": [torch.tensor([True, False]), torch.zeros(0, 5)],
        "half": torch.randn(3).bfloat16(),
        "exact": torch.tensor(1 / 3, dtype=torch.float64),
        "loss": None,
    }


def alike(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        same = list(first) == list(second)
        return same and all(alike(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(alike, first, second))
    return bool(first == second)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "stages.json"


def test_found_alike_in_this_process_and_after_a_resume(path: Path) -> None:
    what = found()
    journal = Journal(path, CONFIG, resume=False)
    journal.finish("search", what, None)
    journal.finish("cut", {"ranks": [1]}, None)
    resumed = Journal(path, CONFIG, resume=True)
    for one in (journal, resumed):
        assert alike(what, one.found("search"))
        assert not one.found("search")["factors"]["layer.0/a"]["A"].requires_grad
        assert one.found("cut") == {"ranks": [1]}
    assert "tensors" not in json.loads(path.read_text())["stages"]["cut"]
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "found-search.safetensors",
        "stages.json",
    ]


def test_what_is_handed_on_is_a_copy(path: Path) -> None:
    weight = torch.ones(2)
    journal = Journal(path, CONFIG, resume=False)
    journal.finish("search", {"weight": weight}, None)
    weight += 1
    assert torch.equal(journal.found("search")["weight"], torch.ones(2))


def removed(file: Path) -> None:
    file.unlink()


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def pickled(file: Path) -> None:
    torch.save({"a": torch.ones(2)}, file)


def of_another_run(file: Path) -> None:
    """A whole file, but not the one that the journal was written with."""
    other = Journal(file.parent / "other" / "stages.json", CONFIG, resume=False)
    other.finish("search", {"weight": torch.ones(2)}, None)
    file.write_bytes((file.parent / "other" / file.name).read_bytes())


@pytest.mark.parametrize("damage", [removed, cut_short, flipped, pickled, of_another_run])
def test_a_damaged_or_missing_file_is_one_sentence(damage: Any, path: Path) -> None:
    Journal(path, CONFIG, resume=False).finish("search", {"weight": torch.zeros(2)}, None)
    damage(path.parent / "found-search.safetensors")
    with pytest.raises(UserError, match=r"found-search\.safetensors.*(missing|damaged)") as caught:
        Journal(path, CONFIG, resume=True)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_written_is_named(path: Path) -> None:
    with pytest.raises(UserError, match=r"complex64.*weight"):
        Journal(path, CONFIG, resume=False).finish(
            "search", {"weight": torch.zeros(1, dtype=torch.complex64)}, None
        )
