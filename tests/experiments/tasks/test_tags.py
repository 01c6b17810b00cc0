"""Tags on tokens: which token has a word's label, losses, scores and records."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, processors, trainers
from tokenizers import pre_tokenizers as pre
from transformers import (
    BertTokenizer,
    DebertaV2Tokenizer,
    GPT2Tokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    RobertaTokenizer,
)

from bilevel.errors import UserError
from bilevel.labels import NO_LABEL
from experiments.answers import TAGS, Answers
from experiments.metrics import tags as tag_metrics
from experiments.tasks.examples import TaggedExample
from experiments.tasks.kinds.tags import TaggedData

NAMES = ("O", "B-X", "I-X", "B-Y", "I-Y")
TEXT = ["the IL-2 gene and NF-kappa B need oxygen"] * 3
WORDS = ("the", "IL-2", "gene", "zoo")
TAGGED = TaggedExample(WORDS, ("O", "B-X", "I-X", "O"))


def data(tests=(), **options):
    options = {"metrics": tuple(tag_metrics.TAG_METRICS), "max_length": 32, **options}
    return TaggedData("t", [], {"test": list(tests)}, "test", tag_names=NAMES, **options)


def byte_level(*special, split=None):
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    if split:
        parts = pre.Split(Regex(split), "isolated")
        raw.pre_tokenizer = pre.Sequence([parts, pre.ByteLevel(False, use_regex=False)])
    alphabet = pre.ByteLevel.alphabet()
    raw.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=400, special_tokens=[*special], initial_alphabet=alphabet),
    )
    return raw


def parts(raw):
    model = json.loads(raw.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


def roberta(**options):
    return RobertaTokenizer(
        **parts(byte_level("<s>", "<pad>", "</s>", "<unk>", "<mask>")), **options
    )


def modernbert():
    raw = byte_level("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
    special = [("[CLS]", 0), ("[SEP]", 2)]
    raw.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=special)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **names)


def qwen():
    raw = byte_level("<|endoftext|>", split=r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+")
    return Qwen2Tokenizer(**parts(raw))


def deberta():
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="[UNK]")
    raw.train_from_iterator([*TEXT, "zoo"], trainer)
    vocabulary = json.loads(raw.to_str())["model"]["vocab"]
    return DebertaV2Tokenizer(vocab=[tuple(entry) for entry in vocabulary], unk_id=3)


def bert():
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.pre_tokenizer, raw.normalizer = pre.BertPreTokenizer(), normalizers.BertNormalizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=80, special_tokens=special)
    raw.train_from_iterator([*TEXT, "zoo"], trainer)
    return BertTokenizer(vocab=json.loads(raw.to_str())["model"]["vocab"])


KINDS = {
    "bert": bert,
    "roberta": roberta,
    "roberta with spaces": lambda: roberta(add_prefix_space=True),
    "gpt2": lambda: GPT2Tokenizer(**parts(byte_level("<|endoftext|>"))),
    "modernbert": modernbert,
    "qwen": qwen,
    "deberta-v3": deberta,
}


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_those_of_the_sentence_and_their_first_tokens_have_the_labels(kind):
    tokenizer = KINDS[kind]()
    (row,) = data().tokenise(tokenizer, [TAGGED])
    labels = [label for label in row["labels"] if label != NO_LABEL]
    assert labels == [0, 1, 2, 0]
    assert row["labels"][-1] == NO_LABEL  # of "[SEP]" or the end of "zoo"
    # The sentence itself, begun by "a" so that its first word is no exception.
    plain = tokenizer("a " + " ".join(WORDS), add_special_tokens=False)["input_ids"]
    inner = [i for i in row["input_ids"] if i not in tokenizer.all_special_ids]
    assert inner == plain[-len(inner) :]
    assert len(plain) - len(inner) in (1, 2)  # "a", or "▁a" in two tokens
    tokens = tokenizer.convert_ids_to_tokens(row["input_ids"])
    starts = [t.strip("Ġ▁") for t, label in zip(tokens, row["labels"], strict=True) if label >= 0]
    words = [word.lower() for word in WORDS]
    assert all(w.startswith(s.lower()) for w, s in zip(words, starts, strict=True))


def test_labels_by_hand():
    (row,) = data().tokenise(bert(), [TAGGED])
    tokens = bert().convert_ids_to_tokens(row["input_ids"])
    assert tokens[:6] == ["[CLS]", "the", "il", "-", "2", "gene"]
    assert row["labels"][:6] == [-100, 0, 1, -100, -100, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_words_cut_off_count_as_outside(kind, caplog):
    long = TaggedExample(("the",) * 30 + ("gene",), ("O",) * 30 + ("B-X",))
    task = data([TAGGED, long], max_length=16)
    with caplog.at_level(logging.WARNING):
        rows = task.tokenise(KINDS[kind](), task.tests["test"])
    assert "1 of 2 sentences have more than 16 tokens" in caplog.text
    assert [len(row["input_ids"]) <= 16 for row in rows] == [True, True]
    seen = sum(label != NO_LABEL for label in rows[1]["labels"])
    assert 0 < seen <= 16
    scores = task.score({"test": [list(TAGGED.tags), ["O"] * seen]})
    assert (scores["precision"], scores["recall"]) == (1.0, 0.5)  # the gene is missed
    assert scores["token_accuracy"] == pytest.approx(34 / 35)


def test_a_word_without_tokens_does_not_move_the_others():
    silent = TaggedExample(("the", "\u200b", "gene"), ("O", "O", "B-X"))
    tokenizer = bert()
    assert tokenizer.tokenize("\u200b") == []
    (row,) = data().tokenise(tokenizer, [silent])
    assert tokenizer.convert_ids_to_tokens(row["input_ids"])[1:4] == ["the", "[UNK]", "gene"]
    assert row["labels"][1:4] == [0, 0, 1]
    (row,) = data().tokenise(tokenizer, [TaggedExample(("\u200b",), ("O",))])
    assert row["labels"] == [NO_LABEL, 0, NO_LABEL]
    tokenizer.unk_token = None
    with pytest.raises(UserError, match="word 1"):
        data().tokenise(tokenizer, [silent])


def test_a_tokenizer_that_cuts_at_the_left_or_knows_no_words_is_refused():
    tokenizer = bert()
    tokenizer.truncation_side = "left"
    with pytest.raises(UserError, match="left"):
        data(max_length=8).tokenise(tokenizer, [TaggedExample(("gene",) * 20, ("O",) * 20)])
    with pytest.raises(UserError, match="fast tokenizer"):
        data().tokenise(SimpleNamespace(is_fast=False), [TAGGED])


def test_scores_by_hand():
    # Right: X at 0-1, Y at 3, X at 4 | found: X at 0-1 (right), X at 3 (type), X at 4-5 (end).
    right = ("B-X", "I-X", "O", "B-Y", "B-X", "O")
    found = ["B-X", "I-X", "O", "B-X", "B-X", "I-X"]
    words = tuple("abcdef")
    # Found more: nothing, then I-Y without its B-, which begins an entity: right.
    more = TaggedExample(("a", "b"), ("O", "B-Y"))
    task = data([TaggedExample(words, right), more])
    scores = task.score({"test": [found, ["O", "I-Y"]]})
    assert scores == {
        "f1": pytest.approx(2 * 2 / (4 + 4)),
        "precision": pytest.approx(2 / 4),
        "recall": pytest.approx(2 / 4),
        "token_accuracy": pytest.approx(5 / 8),
    }
    assert task.entities({"test": [found, ["O", "I-Y"]]}) == {
        "X": {
            "precision": pytest.approx(1 / 3),
            "recall": pytest.approx(1 / 2),
            "f1": pytest.approx(2 * 1 / (3 + 2)),
            "support": 2,
        },
        "Y": {
            "precision": pytest.approx(1 / 1),
            "recall": pytest.approx(1 / 2),
            "f1": pytest.approx(2 * 1 / (1 + 2)),
            "support": 2,
        },
    }
    nothing = {"test": [["O"] * 6, ["O"] * 2]}
    assert task.score(nothing)["f1"] == 0.0
    missed = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 2}
    assert task.entities(nothing) == {"X": missed, "Y": missed}
    assert task.primary_metric == "f1"
    assert task.answers == Answers(TAGS, 5, NAMES)


def test_without_an_entity_there_is_no_f1():
    task = data([TaggedExample(("a",), ("O",))])
    scores = task.score({"test": [["B-X"]]})
    assert scores == {"f1": None, "precision": None, "recall": None, "token_accuracy": 0.0}
    absent = {"precision": None, "recall": None, "f1": None, "support": 0}
    for tag in ("B-X", "O"):
        assert task.entities({"test": [[tag]]}) == {"X": absent, "Y": absent}


def test_records_and_scores_of_a_type_count_words_cut_off_as_outside():
    task = data([TaggedExample(WORDS, ("B-X", "O", "B-X", "O"))])
    cut = [["B-X", "O"]]
    assert task.records(cut, task.tests["test"]) == [
        {
            "prediction": ["B-X", "O", "O", "O"],
            "words": WORDS,
            "tags": ("B-X", "O", "B-X", "O"),
        }
    ]
    scores = task.entities({"test": cut})["X"]
    assert scores == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}


def test_settings_say_version_mode_and_scheme(monkeypatch):
    settings = data().metric_settings
    assert list(settings) == ["f1", "precision", "recall", "token_accuracy"]
    for part in ("seqeval 1.", "default mode", "IOB2"):
        assert part in settings["f1"]

    def missing(name):
        raise tag_metrics.metadata.PackageNotFoundError

    monkeypatch.setattr(tag_metrics.metadata, "version", missing)
    with pytest.raises(UserError, match=r"seqeval.*\[text\]"):
        tag_metrics.check_installed()


def test_losses_and_predictions_are_of_labelled_tokens():
    logits = torch.tensor([[[9.0, 0, 0, 0, 0], [0, 2, 0, 0, 0], [0, 0, 0, 0, 3]]]).repeat(2, 1, 1)
    labels = torch.tensor([[NO_LABEL, 1, NO_LABEL], [NO_LABEL, 0, 4]])
    outputs, batch = SimpleNamespace(logits=logits), {"labels": labels}
    assert data().predictions(outputs, batch) == [["B-X"], ["B-X", "I-Y"]]
    total, count = data().losses(outputs, batch)
    each = torch.nn.functional.cross_entropy(logits.reshape(-1, 5), labels.reshape(-1))
    assert (total / count, count) == (pytest.approx(float(each)), 3)


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_collator_pads_labels_where_it_pads_tokens(side):
    tokenizer = bert()
    tokenizer.padding_side = side
    rows = data().tokenise(tokenizer, [TAGGED, TaggedExample(("the",), ("B-Y",))])
    batch = data().collator(tokenizer)(rows)
    assert batch["labels"].shape == batch["input_ids"].shape
    assert (batch["labels"][batch["attention_mask"] == 0] == NO_LABEL).all()
    assert (batch["labels"] != NO_LABEL).sum(1).tolist() == [4, 1]
