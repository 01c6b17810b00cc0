"""Turn the words of a planted problem into ids."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from experiments.models.planted_problem import SPECIAL, PlantedProblem

__all__ = ["PlantedTokenizer"]


class PlantedTokenizer(PreTrainedTokenizerFast):
    """Words to ids; knows which problem its model is the base of."""

    planted: PlantedProblem

    @classmethod
    def of(cls, planted: PlantedProblem) -> PlantedTokenizer:
        """The tokenizer of a problem's base model."""
        words = [planted.word(i) for i in range(len(SPECIAL) + planted.vocabulary)]
        raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
        raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        made = cls(
            tokenizer_object=raw,
            pad_token="[PAD]",
            unk_token="[UNK]",
            model_max_length=planted.length,
            model_input_names=["input_ids", "attention_mask"],
        )
        made.planted = planted
        return made
