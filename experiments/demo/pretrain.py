"""Pretrain the demo's backbone: a tiny BERT, by masked words of the demo language.

    python -m experiments.demo.pretrain

writes experiments/demo/model/ (safetensors, configuration, tokenizer) in a few minutes on two
cores. The result is part of the project: this needs to be run again only when the language changes.
"""

from pathlib import Path

import torch
from tokenizers import processors
from transformers import BatchEncoding, BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from bilevel.labels import NO_LABEL
from experiments.demo import training
from experiments.tasks.made_up.grammar import riddles, unlabelled
from experiments.tasks.made_up.lexicon import OUTCOMES

FOLDER = Path(__file__).parent / "model"

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LENGTH = 48  # positions; the longest review of the language has about 31 tokens
DROPOUT = 0.1  # of the finished model
TEXTS = 100_000
MASKED = 0.15  # share of masked words ...
TELLING = 0.9  # ... and of those that can be guessed only by understanding the sentence


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each word that occurs, and BERT's special ones."""
    tokenizer = training.word_tokenizer({word for text in texts for word in text.split()}, SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
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
            # About 1/sqrt(hidden size). With BERT's own 0.02 so small a model takes very long to
            # attend to anything.
            initializer_range=0.1,
            # The text is made afresh and plentiful: nothing to over-fit.
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def mask(
    ids: torch.Tensor, rates: torch.Tensor, generator: torch.Generator, mask_token: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask words at random.

    Args:
        ids: (batch, length) token numbers.
        rates: (vocabulary,) probability of each token to be masked.
        generator: the random source.
        mask_token: number of [MASK].

    Returns:
        (batch, length) input, and labels that are -100 wherever nothing is masked.
    """
    masked = torch.rand(ids.shape, generator=generator) < rates[ids]
    return ids.masked_fill(masked, mask_token), ids.masked_fill(~masked, NO_LABEL)


def masking_rates(tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Return each token's probability to be masked, (vocabulary,)."""
    rates = torch.full((len(tokenizer),), MASKED)
    rates[tokenizer.convert_tokens_to_ids(SPECIAL)] = 0.0
    telling = [word for _, *words in OUTCOMES for word in words]
    rates[tokenizer.convert_tokens_to_ids(telling)] = TELLING
    return rates


def pretrain(
    steps: int, batch_size: int, seed: int
) -> tuple[BertForMaskedLM, PreTrainedTokenizerFast]:
    """Train for so many steps on the CPU, in float32."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    tokenizer = build_tokenizer(texts := unlabelled(TEXTS, seed))
    model = build_model(len(tokenizer))
    rates = masking_rates(tokenizer)

    def loss_of(batch: BatchEncoding) -> torch.Tensor:
        ids, labels = mask(batch["input_ids"], rates, generator, tokenizer.mask_token_id)
        return model(ids, attention_mask=batch["attention_mask"], labels=labels).loss

    training.train(
        model,
        tokenizer,
        tokenizer(texts)["input_ids"],
        loss_of,
        lambda: {"guessed": f"{understanding(model, tokenizer):.0%}"},
        steps=steps,
        batch_size=batch_size,
        seed=seed,
    )
    return model, tokenizer


@torch.no_grad()
def understanding(model: BertForMaskedLM, tokenizer: PreTrainedTokenizerFast) -> float:
    """Return the share of 1000 unseen reviews whose outcome is guessed; chance is 0.5.

    The outcome's one telling word is masked, so that only the sentence before it can tell.
    """
    texts, right, wrong = zip(*riddles(1000, seed=1, gap=tokenizer.mask_token), strict=True)
    model.eval()
    batch = tokenizer(list(texts), padding=True, return_tensors="pt")
    logits = model(**batch).logits[batch["input_ids"] == tokenizer.mask_token_id]
    rows = torch.arange(len(logits))
    scores = [
        logits[rows, tokenizer.convert_tokens_to_ids(list(words))] for words in (right, wrong)
    ]
    return (scores[0] > scores[1]).float().mean().item()


def main() -> None:
    """Run from the command line."""
    arguments = training.command_line(__doc__, FOLDER, steps=8000)
    model, tokenizer = pretrain(arguments.steps, arguments.batch_size, arguments.seed)
    # Fine-tuning, on few examples, needs the dropout that pretraining did without.
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = DROPOUT
    # The backbone alone: what a fine-tuning task needs.
    model.bert.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    print(f"outcomes guessed: {understanding(model, tokenizer):.1%} (chance 50%)")


if __name__ == "__main__":
    main()
