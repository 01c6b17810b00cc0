"""Models of every architecture, loaded with a head: targets, seeds, attention, tokenizer."""

from contextlib import contextmanager

import pytest
import torch
import transformers as hf
from peft import LoraConfig, PeftModel, TaskType, get_peft_model

from bilevel.errors import UserError
from experiments.answers import CLASSES, NUMBER, TEXT, Answers
from experiments.cli import hub
from experiments.models import pretrained
from experiments.models.spec import ModelSpec
from experiments.models.target_modules import head_modules, target_modules
from tests.experiments import writers
from tests.experiments.word_tokens import word_tokenizer

SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 20,
}
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}

# architecture: its configuration, query and value, linear maps in a layer, head
ARCHITECTURES = {
    "bert": (hf.BertConfig(**SIZE), ["query", "value"], 6, ["classifier"]),
    "roberta": (
        hf.RobertaConfig(**SIZE, pad_token_id=0),
        ["query", "value"],
        6,
        ["classifier"],
    ),
    "electra": (
        hf.ElectraConfig(**SIZE, embedding_size=8),
        ["query", "value"],
        6,
        ["classifier"],
    ),
    "deberta": (hf.DebertaConfig(**SIZE, **DEBERTA), ["in_proj"], 6, ["pooler", "classifier"]),
    "deberta-v2": (
        hf.DebertaV2Config(**SIZE, **DEBERTA, share_att_key=True),
        ["query_proj", "value_proj"],
        6,
        ["pooler", "classifier"],
    ),
    "distilbert": (
        hf.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=20),
        ["q_lin", "v_lin"],
        6,
        ["pre_classifier", "classifier"],
    ),
    "gpt2": (
        hf.GPT2Config(
            n_embd=16, n_layer=2, n_head=2, vocab_size=20, bos_token_id=1, eos_token_id=1
        ),
        ["c_attn"],
        4,
        ["score"],
    ),
    "llama": (hf.LlamaConfig(**SIZE, pad_token_id=0), ["q_proj", "v_proj"], 7, ["score"]),
    "qwen2": (
        hf.Qwen2Config(**SIZE, num_key_value_heads=1, pad_token_id=0),
        ["q_proj", "v_proj"],
        7,
        ["score"],
    ),
}

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(15))]


def save_tokenizer(folder, pad_token="[PAD]"):
    special = {"unk_token": "[UNK]", "pad_token": pad_token, "eos_token": "[SEP]"}
    word_tokenizer(WORDS, 10**30, **special).save_pretrained(folder)


def save(folder, config, auto_class=hf.AutoModel):
    """Write a random pretrained backbone and its tokenizer; returns a spec of it."""
    torch.manual_seed(0)
    auto_class.from_config(config).save_pretrained(folder)
    save_tokenizer(folder)
    return ModelSpec("tiny", pretrained=str(folder))


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return ARCHITECTURES[request.param]


def test_targets_and_head_of_every_architecture(tmp_path, architecture):
    config, query_value, in_layer, head = architecture
    loaded = save(tmp_path, config).load(Answers(CLASSES, 3), 0)
    found = target_modules(loaded.model, "qv")
    assert [name.rsplit(".", 1)[-1] for name in found] == query_value * 2
    assert len(target_modules(loaded.model, "all")) == 2 * in_layer
    assert target_modules(loaded.model, query_value[:1]) == found[:: len(query_value)]
    assert loaded.head_modules == head


def test_backbone_is_the_checkpoints_and_the_head_comes_from_the_seed(tmp_path, architecture):
    config, *_ = architecture
    spec = save(tmp_path, config)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (spec.load(Answers(CLASSES, 3), s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    heads = tuple(first.head_modules)
    for name, value in first.model.named_parameters():
        assert value.dtype == torch.float32
        assert torch.equal(value, again.model.get_parameter(name))
        if not name.startswith(heads):
            assert torch.equal(value, other.model.get_parameter(name))
    differs = [
        not torch.equal(value, other.model.get_parameter(name))
        for name, value in first.model.named_parameters()
        if name.startswith(heads) and value.ndim == 2
    ]
    assert differs
    assert all(differs)


def test_a_gpus_random_numbers_are_left_alone(tmp_path, monkeypatch):
    """What is made on the CPU draws there, and fork_rng puts back no generator of a GPU."""
    spec = save(tmp_path, ARCHITECTURES["bert"][0])
    seeded = []
    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, seeded.append)
    spec.load(Answers(CLASSES, 3), 7)
    assert seeded == []


def test_a_head_beside_quantised_weights_is_drawn_on_the_gpu(tmp_path, monkeypatch):
    """From the seed too, by a generator that is put back."""
    config = ARCHITECTURES["bert"][0]
    save(tmp_path, config)
    seeded, forked = [], []

    @contextmanager
    def fork(devices):
        forked.append(devices)
        yield

    monkeypatch.setattr(torch.random, "fork_rng", fork)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "manual_seed", seeded.append)
    monkeypatch.setattr(pretrained, "load_weights", lambda *_: pytest.fail("loaded"))
    options = {"attention": "auto", "dtype": "float32"}
    for quantized in ("4bit", None):
        with pytest.raises(pytest.fail.Exception, match="loaded"):
            pretrained.load(
                *(str(tmp_path), None, config, Answers(CLASSES, 3), 7),
                **{**options, "quantized": quantized},
            )
    assert (forked, seeded) == ([[1], []], [7])


def test_an_adapter_with_this_head_reloads_in_stock_peft(tmp_path, architecture):
    config, *_ = architecture
    spec = save(tmp_path / "base", config)
    loaded = spec.load(Answers(CLASSES, 2), 0)
    peft = get_peft_model(
        loaded.model,
        LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=2,
            target_modules=target_modules(loaded.model, "qv"),
            modules_to_save=loaded.head_modules,
        ),
    )
    torch.manual_seed(1)
    for parameter in peft.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    trained = {n for n, p in peft.named_parameters() if p.requires_grad and "lora_" not in n}
    expected = {
        n
        for n, _ in loaded.model.named_parameters()
        if "modules_to_save" in n and "original" not in n
    }
    assert {n.removeprefix("base_model.model.") for n in trained} == expected
    peft.save_pretrained(tmp_path / "adapter")
    fresh = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=2)
    reloaded = PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    for model in (peft, reloaded):
        model.eval()
        model.config.pad_token_id = 0
    ids = torch.randint(5, 20, (4, 7))
    with torch.no_grad():
        assert torch.equal(peft(input_ids=ids).logits, reloaded(input_ids=ids).logits)


def test_a_pooler_without_weights_is_part_of_the_head(tmp_path):
    config = ARCHITECTURES["bert"][0]
    with_pooler = save(tmp_path / "a", config)
    without = save(tmp_path / "b", config, hf.AutoModelForMaskedLM)
    assert with_pooler.load(Answers(CLASSES, 2), 0).head_modules == ["classifier"]
    assert without.load(Answers(CLASSES, 2), 0).head_modules == ["classifier", "bert.pooler"]


def test_a_head_of_another_size_is_replaced(tmp_path):
    config = hf.BertConfig(**SIZE, num_labels=3)
    save(tmp_path, config, hf.AutoModelForSequenceClassification)
    loaded = ModelSpec("x", pretrained=str(tmp_path)).load(Answers(NUMBER, 1), 0)
    assert loaded.model.classifier.weight.shape == (1, 16)
    assert loaded.model.config.problem_type == "regression"
    assert loaded.head_modules == ["classifier"]


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    save(tmp_path, ARCHITECTURES["bert"][0])
    hf.DistilBertConfig(
        dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=20
    ).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="architecture"):
        ModelSpec("x", pretrained=str(tmp_path)).load(Answers(CLASSES, 2), 0)


def test_dropout_override_reaches_every_dropout(tmp_path, architecture):
    save(tmp_path, architecture[0])
    spec = ModelSpec("x", pretrained=str(tmp_path), dropout=0.25)
    model = spec.load(Answers(CLASSES, 2), 0).model
    dropouts = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert set(dropouts) <= {0.25}
    assert dropouts or model.config.attention_dropout == 0.25


@pytest.mark.parametrize(("wanted", "used"), [("auto", "sdpa"), ("eager", "eager")])
def test_attention_implementation(tmp_path, wanted, used):
    save(tmp_path, ARCHITECTURES["bert"][0])
    spec = ModelSpec("x", pretrained=str(tmp_path), attn_implementation=wanted)
    assert spec.load(Answers(CLASSES, 2), 0).model.config._attn_implementation == used


def test_an_architecture_without_sdpa_gets_eager_or_an_error(tmp_path):
    spec = save(tmp_path, ARCHITECTURES["deberta-v2"][0])
    assert spec.load(Answers(CLASSES, 2), 0).model.config._attn_implementation == "eager"
    spec = ModelSpec("x", pretrained=str(tmp_path), attn_implementation="sdpa")
    with pytest.raises(UserError, match="attn_implementation=eager"):
        spec.load(Answers(CLASSES, 2), 0)


def test_tokenizer_has_a_pad_token_and_the_models_longest_input(tmp_path):
    for name, longest in (("bert", 512), ("roberta", 511)):
        spec = save(tmp_path / name, ARCHITECTURES[name][0])
        assert spec.load(Answers(CLASSES, 2), 0).tokenizer.model_max_length == longest
    spec = save(tmp_path / "llama", hf.LlamaConfig(**SIZE))
    save_tokenizer(tmp_path / "llama", pad_token=None)
    loaded = spec.load(Answers(CLASSES, 2), 0)
    assert loaded.tokenizer.pad_token == "[SEP]"
    assert loaded.model.config.pad_token_id == 3


def test_targets_that_match_nothing_are_told_with_what_there_is():
    model = hf.AutoModelForSequenceClassification.from_config(ARCHITECTURES["bert"][0])
    for target in ("q_proj", ["query", "q_proj"], []):
        with pytest.raises(UserError, match=r"qv.*attention\.self\.query, attention\.self\.key"):
            target_modules(model, target)
    assert head_modules(model) == ["classifier"]


def test_models_that_cannot_be_found(tmp_path, monkeypatch):
    def refused(match, **options):
        with pytest.raises(UserError, match=match):
            ModelSpec("x", **options).load(Answers(CLASSES, 2), 0)

    refused("nowhere.*not exist", pretrained=str(tmp_path / "nowhere"))
    refused("no config.json", pretrained=str(tmp_path))
    refused(r"model\.pretrained")
    refused("pip install it", package="no_such_package", install="pip install it")
    with pytest.raises(
        UserError, match=r"model.pretrained=x: .*out of the package p.*package=null"
    ):
        ModelSpec("m", package="p", pretrained="x")
    refused("auto, sdpa, eager", pretrained="x", attn_implementation="flash")
    refused(r"dropout=1\.0.*in \[0, 1\)", pretrained="x", dropout=1.0)
    monkeypatch.setattr(hub, "reachable", lambda: False)
    refused("hub.*local folder", pretrained="no-such-owner/no-such-model")
    (tmp_path / "config.json").write_text("{}")
    refused("loaded", pretrained=str(tmp_path))


@pytest.mark.parametrize("kind", ["gpt2", "bart"])
def test_a_folder_without_a_tokenizer_is_refused(kind, tmp_path):
    writers.model(kind).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no tokenizer"):
        ModelSpec("x", pretrained=str(tmp_path)).load(Answers(TEXT, 0), 0)
