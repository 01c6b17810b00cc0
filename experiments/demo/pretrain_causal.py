"""Pretrain the demo's second backbone: a tiny GPT-2, by the next word of descriptions and reviews.

    python -m experiments.demo.pretrain_causal

writes experiments/demo/causal_model/ (safetensors, configuration, tokenizer) in some minutes on
one core. The result is part of the project: run it again only when one of the languages changes.
"""

from pathlib import Path

import torch
from tokenizers import decoders
from transformers import BatchEncoding, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from bilevel.labels import NO_LABEL
from experiments.demo import training
from experiments.tasks.made_up.descriptions import SLOTS, unlabelled

FOLDER = Path(__file__).parent / "causal_model"

PAD, UNKNOWN, BEGIN, END = SPECIAL = ["[PAD]", "[UNK]", "[BOS]", "[EOS]"]
LENGTH = 128  # positions; the longest text, with BEGIN and END, has about 85 tokens
DROPOUT = 0.1  # of the finished model
TEXTS = 40_000


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words that knows the words of meaning representations too.

    As GPT-2's own it adds no special tokens to a text: who trains puts them where they belong.
    """
    words = {word for text in texts for word in text.replace(",", " ").replace(".", " ").split()}
    tokenizer = training.word_tokenizer(words | {*SLOTS, *_values(), *"[],."}, SPECIAL)
    tokenizer.decoder = decoders.WordPiece(cleanup=True)  # no blank before a comma or full stop
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=LENGTH,
        model_input_names=["input_ids", "attention_mask"],
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=BEGIN,
        eos_token=END,
    )


def _values() -> set[str]:
    return {word for values in SLOTS.values() for value in values for word in value.split()}


def build_model(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """Return the untrained model: 4 layers of 96, about a third of a million parameters."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=LENGTH,
            n_embd=96,
            n_layer=4,
            n_head=4,
            n_inner=192,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            # Larger than GPT-2's own 0.02, for the same reason as in the tiny BERT.
            initializer_range=0.1,
            # The text is made afresh and plentiful: nothing to over-fit.
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """Return the texts' token numbers, each between BEGIN and END."""
    return tokenizer([f"{BEGIN} {text} {END}" for text in texts])["input_ids"]


def next_word_loss(model: GPT2LMHeadModel, batch: BatchEncoding) -> torch.Tensor:
    """Return the mean loss of a padded batch, padding left out."""
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, NO_LABEL)
    return model(**batch, labels=labels).loss


def pretrain(
    steps: int, batch_size: int, seed: int
) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    """Train for so many steps."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(texts := unlabelled(TEXTS, seed))
    model = build_model(tokenizer)
    training.train(
        model,
        tokenizer,
        encode(tokenizer, texts),
        lambda batch: next_word_loss(model, batch),
        lambda: {"unseen": f"{held_out_loss(model, tokenizer):.3f}"},
        steps=steps,
        batch_size=batch_size,
        seed=seed,
    )
    return model, tokenizer


@torch.no_grad()
def held_out_loss(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> float:
    """Return the loss a token on 200 texts of another seed than pretraining's."""
    model.eval()
    rows = {"input_ids": encode(tokenizer, unlabelled(200, seed=-1))}
    return next_word_loss(model, tokenizer.pad(rows, return_tensors="pt")).item()


def main() -> None:
    """Run from the command line."""
    arguments = training.command_line(__doc__, FOLDER, steps=2500)
    model, tokenizer = pretrain(arguments.steps, arguments.batch_size, arguments.seed)
    # Fine-tuning, on few examples, needs the dropout that pretraining did without.
    for kind in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        setattr(model.config, kind, DROPOUT)
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    print(f"loss a token on unseen text: {held_out_loss(model, tokenizer):.3f}")


if __name__ == "__main__":
    main()
