"""Pretrain the demo's backbone: a tiny BERT, by masked words of the demo language.

    python -m experiments.demo.pretrain

writes experiments/demo/model/ (safetensors, configuration, tokenizer) in a few minutes on two
cores. The result is part of the project: this needs to be run again only when the language changes.
"""

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    get_linear_schedule_with_warmup,
)

from experiments.demo.grammar import riddles, unlabelled

FOLDER = Path(__file__).parent / "model"

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LENGTH = 48  # positions; the longest sentence of the language has 38 tokens
LEARNING_RATE = 1e-3
MASKED = 0.2  # share of masked words


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each word that occurs, and BERT's special ones."""
    words = SPECIAL + sorted({word for text in texts for word in text.split()})
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=LENGTH,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def build_model(vocabulary: int) -> BertForMaskedLM:
    """Return the untrained model: 4 layers of 96, about a third of a million parameters."""
    return BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=192,
            max_position_embeddings=LENGTH,
        )
    )


def pretrain(
    steps: int, batch_size: int, seed: int
) -> tuple[BertForMaskedLM, PreTrainedTokenizerFast]:
    """Train on fresh sentences for so many steps; float32, CPU."""
    torch.manual_seed(seed)
    texts = unlabelled(min(steps * batch_size, 100_000), seed)
    tokenizer = build_tokenizer(texts)
    model = build_model(len(tokenizer))
    loader: DataLoader = DataLoader(
        [{"input_ids": ids} for ids in tokenizer(texts)["input_ids"]],  # type: ignore[arg-type]
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    scheduler = get_linear_schedule_with_warmup(optimizer, steps // 20, steps)
    model.train()
    step = 0
    with tqdm(total=steps, desc="masked words") as bar:
        while step < steps:
            for batch in loader:
                loss = model(**batch).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                step += 1
                bar.update()
                if step % 50 == 0:
                    bar.set_postfix(loss=f"{loss.item():.3f}")
                if step == steps:
                    break
    return model.eval(), tokenizer


@torch.no_grad()
def understanding(model: BertForMaskedLM, tokenizer: PreTrainedTokenizerFast) -> float:
    """Return the share of 1000 unseen reviews whose outcome is guessed; chance is 0.5.

    The outcome's one telling word is masked, so that only the sentence before it can tell.
    """
    texts, right, wrong = zip(*riddles(1000, seed=1, gap=tokenizer.mask_token), strict=True)
    batch = tokenizer(list(texts), padding=True, return_tensors="pt")
    logits = model(**batch).logits[batch["input_ids"] == tokenizer.mask_token_id]
    rows = torch.arange(len(logits))
    scores = [
        logits[rows, tokenizer.convert_tokens_to_ids(list(words))] for words in (right, wrong)
    ]
    return (scores[0] > scores[1]).float().mean().item()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    model, tokenizer = pretrain(arguments.steps, arguments.batch_size, arguments.seed)
    # The backbone alone: what a fine-tuning task needs.
    model.bert.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    print(f"outcomes guessed: {understanding(model, tokenizer):.1%} (chance 50%)")


if __name__ == "__main__":
    main()
