"""Models that come with code: it runs when the user says so now, and never else, nor is one asked.

The code would leave a file behind, ``sprung``.
"""

import json
import pickle
import shutil
import sys
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from bilevel.errors import UserError
from experiments.answers import CLASSES, TEXT, Answers
from experiments.models.spec import ModelSpec

TWO = Answers(CLASSES, 2, ("no", "yes"))
MODULE = """
open({trap!r}, "w")
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast
class OwnConfig(BertConfig):
    model_type = "own"
class OwnModel(BertForSequenceClassification):
    config_class = OwnConfig
class OwnTokenizer(BertTokenizerFast):
    pass
"""
OWN = {
    "AutoConfig": "own.OwnConfig",
    "AutoModelForSequenceClassification": "own.OwnModel",
}


@pytest.fixture
def trap(tmp_path):
    return tmp_path / "sprung"


@pytest.fixture
def folder(tiny, tmp_path, trap, monkeypatch):
    def asked(*_):
        raise AssertionError("nobody is to be asked")

    monkeypatch.setattr("builtins.input", asked)
    monkeypatch.setattr(sys, "path", list(sys.path))  # where the cache is put
    cache = str(tmp_path / "cache")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", cache)
    copied = shutil.copytree(tiny, tmp_path / "model")
    (copied / "own.py").write_text(MODULE.format(trap=str(trap)))
    return copied


def put(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def spec(folder, **options):
    return ModelSpec("hub", pretrained=str(folder), **options)


def test_an_architecture_of_its_own(folder, trap):
    put(folder / "config.json", auto_map=OWN, model_type="own")
    with pytest.raises(UserError, match=r"code of its own.*model\.trust_remote_code=true"):
        spec(folder).load(TWO, 0)
    assert not trap.exists()


def test_it_runs_when_the_user_says_so(folder, trap):
    put(folder / "config.json", auto_map=OWN, model_type="own")
    loaded = spec(folder, trust_remote_code=True).load(TWO, 0)
    assert type(loaded.model).__name__ == "OwnModel"
    assert trap.exists()


def test_a_known_architecture_is_that_of_transformers(folder, trap):
    put(folder / "config.json", auto_map=OWN)
    put(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.OwnTokenizer", None]})
    assert type(spec(folder).load(TWO, 0).model).__module__.startswith("transformers.")
    assert not trap.exists()


def test_a_tokenizer_of_its_own(folder, trap):
    put(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]},
        tokenizer_class="OwnTokenizer",
    )
    with suppress(UserError):  # or it does without the code
        spec(folder).load(TWO, 0)
    assert not trap.exists()


@pytest.mark.parametrize("trusted", [False, True])
def test_code_that_generates(trusted, folder, trap):
    (folder / "model.safetensors").unlink()
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 32}
    GPT2LMHeadModel(GPT2Config(vocab_size=5000, **sizes)).save_pretrained(folder)
    (folder / "custom_generate").mkdir()
    generate = f"open({str(trap)!r}, 'w')\ndef generate(model, *args, **options): ...\n"
    (folder / "custom_generate" / "generate.py").write_text(generate)
    spec(folder, trust_remote_code=trusted).load(Answers(TEXT, 0), 0)
    assert trap.exists() is trusted


class Sprung:
    """Opens a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("how", ["torch", "pickle", "zip of torch"])
def test_weights_that_are_a_pickle(how, folder, trap):
    weights = folder / "pytorch_model.bin"
    (folder / "model.safetensors").unlink()
    if how == "pickle":
        weights.write_bytes(pickle.dumps(Sprung(trap)))
    else:
        torch.save({"x": Sprung(trap)}, weights, _use_new_zipfile_serialization="zip" in how)
    with pytest.raises(UserError, match=r"pickle.*safetensors") as told:
        spec(folder).load(TWO, 0)
    assert "\n" not in str(told.value)
    assert not trap.exists()


def test_plain_tensors_in_one_are_read(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    loaded = spec(folder).load(TWO, 0)
    name, value = next(iter(tensors.items()))
    found = dict(loaded.model.named_parameters())
    assert torch.equal(next(v for k, v in found.items() if k.endswith(name)), value)


def test_an_adapter_beside_a_model_is_refused(folder):
    # transformers would put it in, and take its base from the hub.
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "some/model"}')
    save_file({"x": torch.zeros(1)}, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        spec(folder).load(TWO, 0)
