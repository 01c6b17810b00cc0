"""Make a small GPT-2 out of a text task's own training texts, where no hub can be reached.

    python -m experiments.demo.small_causal out=DIR task=e2e task.data_dir=DATA [OPTION=VALUE ...]

steps=4000        of pretraining, by the next token of sources and targets each alone: no pairs
batch_size=32     texts a step
layers=4  width=128  heads=4  positions=512
vocabulary=2000   of the byte-level BPE, learned from the same texts
seed=0            of weights and order

Some minutes on one core. Then: python -m experiments.run task=e2e model=hub model.pretrained=DIR
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from bilevel.checkpoint.disk import told_when_full
from bilevel.errors import UserError
from experiments.cli.command_line import CommandLine
from experiments.cli.program import program
from experiments.config.composition import compose_config
from experiments.config.instantiate import build, user_modules
from experiments.demo import training
from experiments.demo.pretrain_causal import next_word_loss
from experiments.results.finished_run import take
from experiments.tasks.demo_generation import DemoGeneration
from experiments.tasks.generation import Generation
from experiments.tasks.kinds.text import TextData
from experiments.tasks.task import Task

__all__ = ["build_model", "build_tokenizer", "main", "texts_of"]

END, PAD = "<|endoftext|>", "<|pad|>"  # as GPT-2, END is between texts too
DROPOUT = 0.1  # of the finished model, as GPT-2's
SIZES = {
    "steps": 4000,
    "batch_size": 32,
    "layers": 4,
    "width": 128,
    "heads": 4,
    "positions": 512,
    "vocabulary": 2000,
    "seed": 0,
}
MAY_BE_ZERO = ("steps", "seed")
ALPHABET = 256  # bytes, so that no text is unknown
HELD_OUT = 200  # texts, to show how well unseen ones are guessed


def texts_of(data: TextData) -> list[str]:
    """The different sources and targets of the training examples, sorted."""
    return sorted({text for e in data.train for text in (e.source, e.target) if text})


def build_tokenizer(
    texts: Sequence[str], vocabulary: int, positions: int
) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE, as GPT-2's but small; every text can be read and written."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        texts, vocab_size=vocabulary, special_tokens=[END, PAD], show_progress=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        model_max_length=positions,
        model_input_names=["input_ids", "attention_mask"],
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, sizes: Mapping[str, int]) -> GPT2LMHeadModel:
    """Return the untrained model, without dropout: the texts are seen few times."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=sizes["positions"],
            n_embd=sizes["width"],
            n_layer=sizes["layers"],
            n_head=sizes["heads"],
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            # About 1/sqrt(width): with GPT-2's own 0.02 so small a model takes long to attend.
            initializer_range=sizes["width"] ** -0.5,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )


def _pretrain(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    sizes: Mapping[str, int],
) -> float:
    """Train on all but some of the texts; the loss a token on those."""
    texts = random.Random(sizes["seed"]).sample(texts, len(texts))
    most = sizes["positions"]
    rows = [ids[:most] for ids in tokenizer([f"{END}{t}{END}" for t in texts])["input_ids"]]
    unseen = rows[:HELD_OUT]

    @torch.no_grad()
    def held_out() -> float:
        model.eval()
        batch = tokenizer.pad({"input_ids": unseen}, return_tensors="pt")
        return float(next_word_loss(model, batch))

    training.train(
        model,
        tokenizer,
        rows[HELD_OUT:],
        lambda batch: next_word_loss(model, batch),
        lambda: {"unseen": f"{held_out():.3f}"},
        steps=sizes["steps"],
        batch_size=sizes["batch_size"],
        seed=sizes["seed"],
    )
    return held_out()


def _sizes(given: Mapping[str, str | None]) -> dict[str, int]:
    sizes = {}
    for name, value in given.items():
        least = 0 if name in MAY_BE_ZERO else 1
        if not (value or "").isdecimal() or int(value or 0) < least:
            raise UserError(f"{name}={value}: this must be an integer of {least} or more")
        sizes[name] = int(value or 0)
    if sizes["width"] % sizes["heads"]:
        raise UserError(
            f"width={sizes['width']}: this must be a multiple of heads={sizes['heads']}"
        )
    least = ALPHABET + len((END, PAD))
    if sizes["vocabulary"] < least:
        raise UserError(f"vocabulary={sizes['vocabulary']}: this must be {least} or more")
    return sizes


def _free_folder(folder: Path) -> Path:
    """Make the folder now: a place that cannot be written to is told before the training."""
    if (folder / "config.json").exists():
        raise UserError(f"out={folder} holds a model already: give another folder")
    if folder.is_file():
        raise UserError(f"out={folder} is a file: give a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={folder} cannot be made: {error.strerror}") from error
    return folder


def _texts(words: list[str], config_dir: str | None) -> list[str]:
    kind: Any = Task
    modules = user_modules([config_dir] if config_dir else [])
    task = build(compose_config(words, config_dir).task, "task", kind, modules)
    if not isinstance(task, (Generation, DemoGeneration)):
        raise UserError(f"task={task.name} has no texts to write: e2e, webnlg, text_to_text ... do")
    data = task.load()
    assert isinstance(data, TextData)
    texts = texts_of(data)
    if len(texts) <= HELD_OUT:
        raise UserError(f"task {data.name} has {len(texts)} texts to learn from: too few")
    return texts


@program(lambda: str(__doc__))
def main(words: list[str]) -> None:
    """The program."""
    line = CommandLine.of_one(words)
    own, overrides = take(line.overrides, out=None, **{k: str(v) for k, v in SIZES.items()})
    out = own.pop("out")
    if not out:
        raise UserError("say where the model goes: out=DIR")
    for word in overrides:
        if not word.startswith(("task=", "task.")):
            raise UserError(f"unknown option {word!r}: allowed are out, task, {', '.join(SIZES)}")
    sizes = _sizes(own)
    folder = _free_folder(Path(out))
    texts = _texts(overrides, line.config_dir)
    torch.manual_seed(sizes["seed"])
    tokenizer = build_tokenizer(texts, sizes["vocabulary"], sizes["positions"])
    model = build_model(tokenizer, sizes)
    loss = _pretrain(model, tokenizer, texts, sizes)
    for kind in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        setattr(model.config, kind, DROPOUT)
    with told_when_full(folder):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    print(f"{out}: {model.num_parameters():,} parameters, {len(tokenizer)} tokens")
    print(f"loss a token on {HELD_OUT} unseen texts: {loss:.3f}")


if __name__ == "__main__":
    main()
