"""Damaged files of a model: one sentence that names the file, before anything is read into it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers import GPT2LMHeadModel

from bilevel.errors import UserError
from experiments.answers import CLASSES, TEXT, Answers
from experiments.models.spec import ModelSpec
from tests.experiments import writers

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab29\nsize 12345\n"
DEEP = (99998).to_bytes(8, "little") + b"[" * 49999 + b"]" * 49999  # as a file's header
Change = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return writers.folder(tmp_path, "gpt2")


def holds(name: str, text: str | bytes) -> Change:
    data = text if isinstance(text, bytes) else text.encode()
    return lambda folder: (folder / name).write_bytes(data)


def cut(name: str, size: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def pickled(data: bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(data)

    return change


def sharded(change: Change) -> Change:
    def both(folder: Path) -> None:
        model = GPT2LMHeadModel.from_pretrained(folder)
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size="8KB")
        change(folder)

    return both


def part(folder: Path) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[1]


SOURCE = [
    ("model.safetensors", holds("model.safetensors", POINTER), "Git LFS pointer.*git lfs pull"),
    ("config.json", holds("config.json", POINTER), "Git LFS pointer"),
    ("tokenizer.json", holds("tokenizer.json", POINTER), "Git LFS pointer"),
    ("tokenizer_config.json", holds("tokenizer_config.json", POINTER), "Git LFS pointer"),
    ("pytorch_model.bin", pickled(POINTER.encode()), "Git LFS pointer"),
    ("safetensors", sharded(lambda f: part(f).write_text(POINTER)), "Git LFS pointer"),
    ("index.json", sharded(holds("model.safetensors.index.json", POINTER)), "Git LFS pointer"),
    ("model.safetensors", holds("model.safetensors", ""), "is empty"),
    ("model.safetensors", cut("model.safetensors", 5), "only a part"),
    ("model.safetensors", cut("model.safetensors", 900), "only a part"),
    ("model.safetensors", cut("model.safetensors", 20000), "has 20,000 bytes and should have"),
    ("model.safetensors", holds("model.safetensors", "<html>none</html>" * 99), "no safetensors"),
    ("model.safetensors", holds("model.safetensors", DEEP), "no safetensors"),
    ("2 of the", sharded(lambda f: [part(f).unlink(), part(f).unlink()]), "lacks 2 of the"),
    ("index.json", sharded(holds("model.safetensors.index.json", "{}")), "no 'weight_map'"),
    ("config.json", holds("config.json", '{"model_type":'), "no JSON: line 1"),
    ("config.json", holds("config.json", b'{"model_type": "b\xe9"}'), "not in UTF-8"),
    ("config.json", holds("config.json", '{"a":' + "[" * 99999 + "]" * 99999 + "}"), "damaged"),
    ("config.json", holds("config.json", '{"a":' + "9" * 9999 + "}"), "damaged"),
    ("config.json", holds("config.json", '{"a": "\\ud800"}'), "damaged.*surrogate"),
    ("index.json", sharded(holds("model.safetensors.index.json", "{" * 2**20)), "damaged"),
    ("config.json", holds("config.json", "null"), "must hold a JSON object"),
    ("tokenizer.json", holds("tokenizer.json", "{}"), "has no 'model'"),
    ("tokenizer.json", holds("tokenizer.json", "[]"), "must hold a JSON object"),
    ("tokenizer_config.json", holds("tokenizer_config.json", "[]"), "must hold a JSON object"),
]


@pytest.mark.parametrize(("name", "change", "said"), SOURCE)
def test_a_damaged_file_is_told_without_reading_the_weights(
    name: str, change: Change, said: str, folder: Path
) -> None:
    spec = ModelSpec("hub", pretrained=str(folder))
    assert spec.source() == str(folder)
    change(folder)
    with pytest.raises(UserError, match=said) as caught:
        spec.source()
    assert name in str(caught.value)


def test_a_file_that_is_not_read_may_be_a_pointer(folder: Path) -> None:
    for name in ("pytorch_model.bin", "merges.txt", "README.md", "tf_model.h5"):
        (folder / name).write_text(POINTER)
    ModelSpec("hub", pretrained=str(folder)).load(Answers(TEXT, 0), 0)


def configured(**values: object) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def weights(name: str, tensor: torch.Tensor) -> Change:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = {**safetensors.torch.load_file(path), name: tensor}
        safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (weights("transformer.h.0.mlp.c_fc.weight", torch.zeros(16, 3)), r"\[16, 3\] in the files"),
        (weights("transformer.wte.weight", torch.zeros(9, 16)), r"\[9, 16\] in the files"),
        (weights("transformer.wpe.weight", torch.full((64, 16), torch.nan)), "wpe.*nan"),
        (configured(n_embd="16"), "cannot be loaded.*n_embd"),
        (configured(n_head=3), "cannot be loaded"),
        (configured(model_type="nonsense"), "cannot be loaded.*nonsense"),
        (pickled(b"\x80\x04junk" * 30), "cannot be loaded.*damaged"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer's files"),
    ],
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_what_the_files_say_does_not_go_together(change: Change, said: str, folder: Path) -> None:
    change(folder)
    with pytest.raises(UserError, match=said):
        ModelSpec("hub", pretrained=str(folder)).load(Answers(CLASSES, 2), 0)


def test_a_package_that_is_missing_is_not_said_to_be_the_tokenizers(folder: Path) -> None:
    configured(quantization_config={"quant_method": "gptq", "bits": 4})(folder)
    with pytest.raises(UserError, match=r"needs another package: .*GPTQ") as caught:
        ModelSpec("hub", pretrained=str(folder)).load(Answers(TEXT, 0), 0)
    assert "tokenizers" not in str(caught.value)


def test_the_model_counts_that_as_padding_which_the_tokenizer_pads_with(folder: Path) -> None:
    """A decoder that classifies reads the last token that is no padding."""
    configured(pad_token_id=5)(folder)
    loaded = ModelSpec("hub", pretrained=str(folder)).load(Answers(CLASSES, 2), 0)
    short, longer = {"input_ids": [7, 8]}, {"input_ids": [7, 8, 9, 4]}
    with torch.no_grad():
        alone = loaded.model(**loaded.tokenizer.pad([short], return_tensors="pt")).logits[0]
        beside = loaded.model(**loaded.tokenizer.pad([short, longer], return_tensors="pt")).logits
    torch.testing.assert_close(beside[0], alone)
