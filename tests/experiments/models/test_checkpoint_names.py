"""Names of a checkpoint's parameters, of every kind of file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from experiments.models.checkpoint_names import parameter_names

WEIGHTS = {"a.weight": torch.zeros(2), "pooler.dense.bias": torch.zeros(1)}


@pytest.mark.parametrize("archive", [True, False])
def test_pickled_files_old_and_new(tmp_path: Path, archive: bool) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=archive)
    assert parameter_names(str(tmp_path)) == set(WEIGHTS)


def test_safetensors_come_first_and_an_index_tells_all(tmp_path: Path) -> None:
    torch.save({"other": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    assert parameter_names(str(tmp_path)) == set(WEIGHTS)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"x": "1", "y": "2"}}')
    assert parameter_names(str(tmp_path)) == {"x", "y"}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_what_cannot_be_seen(tmp_path: Path, name: str) -> None:
    assert parameter_names(str(tmp_path)) is None
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert parameter_names(str(tmp_path)) is None
    assert parameter_names("no such/name of a hub") is None
