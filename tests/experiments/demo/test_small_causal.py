"""A small GPT-2 made out of a task's texts."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.demo import small_causal
from experiments.training.job import execute

DATA = ["task=demo_generation", "task.max_train=150"]
SMALL = ["layers=1", "width=16", "heads=2", "positions=128", "vocabulary=300", "batch_size=8"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small") / "model"
    small_causal.main([f"out={out}", *DATA, *SMALL, "steps=30"])
    return out


def test_it_has_the_sizes_asked_for_and_dropout(made: Path) -> None:
    config = AutoModelForCausalLM.from_pretrained(made).config
    sizes = (config.n_layer, config.n_embd, config.n_head, config.n_positions, config.vocab_size)
    assert sizes == (1, 16, 2, 128, 300)
    assert config.resid_pdrop == config.attn_pdrop == config.embd_pdrop == 0.1


def test_it_reads_and_writes_any_text(made: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made)
    for text in ("the copper kettle is a cafe.", "Øre & 汉字, 3 €"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len({tokenizer.eos_token_id, tokenizer.pad_token_id}) == 2
    assert tokenizer.bos_token_id == tokenizer.eos_token_id


def test_pretraining_learns(made: Path, tmp_path: Path) -> None:
    small_causal.main([f"out={tmp_path}", *DATA, *SMALL, "steps=0"])
    rows = AutoTokenizer.from_pretrained(made)("<|endoftext|>the copper kettle is a cheap cafe.")
    ids = torch.tensor([rows["input_ids"]])
    losses = [
        AutoModelForCausalLM.from_pretrained(folder)(ids, labels=ids).loss.item()
        for folder in (tmp_path, made)
    ]
    assert losses[1] < losses[0] - 0.3


def test_its_texts_are_sources_and_targets_once(tmp_path: Path) -> None:
    data = Plan.of(compose_config(DATA)).task.load()
    texts = small_causal.texts_of(data)
    assert texts == sorted({e.source for e in data.train} | {e.target for e in data.train})


def test_it_is_a_model_of_the_project(made: Path, tmp_path: Path) -> None:
    words = [*DATA, "task.max_test=4", "task.decoding.max_new_tokens=4", "method=lora"]
    words += ["model=hub", f"model.pretrained={made}", "train.max_steps=2", "run.figures=false"]
    result = execute(Plan.of(compose_config([*words, "engine.precision=fp32"])), tmp_path)
    assert result["ranks"].keys() == {
        "transformer.h.0.attn.c_attn.q",
        "transformer.h.0.attn.c_attn.v",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "out=DIR"),
        (["out=x", "width=10", "heads=3"], "width=10.*heads=3"),
        (["out=x", "steps=-1"], "steps=-1.*0 or more"),
        (["out=x", "layers=0"], "layers=0.*1 or more"),
        (["out=x", "vocabulary=100"], "vocabulary=100.*258"),
        (["out=x", "task=demo"], "task=demo.*no texts"),
        (["out=x", *DATA, "task.max_train=30"], "few"),
        (["out=x", "model=demo"], "model=demo.*out, task, steps"),
    ],
)
def test_wrong_words(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        small_causal.main(words)
    assert re.search(said, capsys.readouterr().err)


def test_a_place_that_cannot_be_written_to_is_told_first(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for out, said in (
        (tmp_path / "file", "is a file"),
        (made, "a model already"),
    ):
        with pytest.raises(SystemExit, match="2"):
            small_causal.main([f"out={out}", *DATA, *SMALL])
        assert said in capsys.readouterr().err
