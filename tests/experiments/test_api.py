"""The tool without Hydra: what README and docs/python.md say, on a tiny model."""

import random
import warnings
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset, DatasetDict
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification

from bilevel.errors import UserError
from experiments.answers import CLASSES, Answers
from experiments.api import finetune, search_ranks
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from problems import AutoLoRA, LoRA, LoRACut

SMALL = {"max_steps": 3, "batch_size": 8}


@pytest.fixture(scope="module")
def given():
    plan = Plan.of(compose_config(["task=demo", "task.max_train=40", "task.max_test=24"]))
    task = plan.task.load()
    loaded = plan.model.load(Answers(CLASSES, 2), 0)
    rows = {
        "train": task.tokenise(loaded.tokenizer, task.train),
        "test": task.tokenise(loaded.tokenizer, task.tests["test"]),
    }
    return loaded.model, loaded.tokenizer, rows


def test_a_tuned_model_its_config_and_the_result(given):
    model, tokenizer, rows = given
    before = {name: p.clone() for name, p in model.named_parameters()}
    data = DatasetDict({name: Dataset.from_list(part) for name, part in rows.items()})
    run = finetune(model, tokenizer, data, AutoLoRA(rank=4), **SMALL)

    assert isinstance(run.model, PeftModel)
    assert isinstance(run.lora_config, LoraConfig)
    ranks = run.result["ranks"]
    assert max(ranks.values()) == run.lora_config.r
    uneven = {f"^{name}": rank for name, rank in ranks.items() if rank != run.lora_config.r}
    assert run.lora_config.rank_pattern == uneven
    assert run.result["data"] == {"train": 20, "validation": 20, "test": 24}
    # the model is the one that was scored
    batch = tokenizer.pad([{k: row[k] for k in row} for row in rows["test"]], return_tensors="pt")
    with torch.no_grad():
        found = run.model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    accuracy = (found.argmax(1) == batch["labels"]).double().mean().item()
    assert accuracy == pytest.approx(run.result["metrics"]["accuracy"])
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_folder_keeps_the_run(given, tmp_path):
    model, tokenizer, rows = given
    run = finetune(model, tokenizer, rows, LoRA(rank=2), folder=tmp_path / "run", **SMALL)
    assert (tmp_path / "run" / "result.json").is_file()
    assert (tmp_path / "run" / "figures" / "losses.png").is_file()
    again = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(model.name_or_path),
        str(tmp_path / "run" / "adapter"),
    )
    assert again.peft_config["default"].r == 2
    with pytest.raises(UserError, match="holds a run already"):
        finetune(model, tokenizer, rows, LoRA(rank=2), folder=tmp_path / "run", **SMALL)
    same = finetune(
        model, tokenizer, rows, LoRA(rank=2), folder=tmp_path / "run", resume=True, **SMALL
    )
    assert same.result == run.result


def test_searched_ranks_make_a_model_elsewhere(given):
    model, tokenizer, rows = given
    searched = search_ranks(model, tokenizer, rows["train"], AutoLoRA(rank=4), **SMALL)
    config, frontier = searched
    assert frontier is None
    assert searched.decided.components == 4 * 8
    assert "these ranks" in searched.decided.words
    assert isinstance(config, LoraConfig)
    assert config.modules_to_save == ["classifier", "bert.pooler"]
    fresh = AutoModelForSequenceClassification.from_pretrained(model.name_or_path)
    found = get_peft_model(fresh, config)
    sizes = {m.r["default"] for m in found.modules() if hasattr(m, "lora_A")}
    assert sizes <= {1, 2, 3, 4}
    assert set(config.rank_pattern.values()) | {config.r} == sizes


def ranks_of(model):
    """Layer -> rank, as PEFT has it."""
    layers = model.get_base_model().named_modules()
    return {name: m.r["default"] for name, m in layers if hasattr(m, "lora_A")}


def test_a_cut_is_searched_by_default_and_is_the_one_of_a_run(given, caplog):
    """40 rows, trained on 32: the same rows, seed and settings give the same ranks."""
    model, tokenizer, rows = given
    settings = {**SMALL, "max_steps": 12, "lr": 1e-2}
    method = LoRACut(rank=4, parameter_budget=1000)
    with caplog.at_level("INFO"):
        found = search_ranks(model, tokenizer, rows["train"], method, **settings)
    assert found.decided.words in caplog.messages
    run = finetune(model, tokenizer, rows, method, **settings)
    assert run.result["adapter_parameters"] == 960
    assert found.decided.as_json() == run.result["decided"]
    assert "nothing was learned" in found.decided.words  # of 12 steps
    assert found.frontier.examples == 8
    assert found.config.modules_to_save == ["classifier", "bert.pooler"]
    kept = {name: rank for name, rank in run.result["ranks"].items() if rank}
    assert min(run.result["ranks"].values()) == 0
    fresh = AutoModelForSequenceClassification.from_pretrained(model.name_or_path)
    tuned = get_peft_model(fresh, found.config)
    assert ranks_of(tuned) == ranks_of(run.model) == kept
    scales = {n: m.scaling["default"] for n, m in tuned.named_modules() if hasattr(m, "lora_A")}
    assert set(scales.values()) == {16.0 / 4}


def test_without_a_method_the_smallest_part_that_loses_nothing(given):
    model, tokenizer, rows = given
    config, frontier = search_ranks(model, tokenizer, rows["train"], **SMALL)
    assert [point.components for point in frontier.points][:: len(frontier.points) - 1] == [0, 64]
    assert frontier.points[-1].difference == 0
    assert not frontier.learned  # after three steps
    assert (config.r, config.rank_pattern, frontier.choice) == (8, {}, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": []}, r"data\['train'\] is empty"),
        ({"train": [{"input_ids": [2, 3]}]}, "row 0 of train has no 'labels'"),
        ({"train": [{"label": 0}]}, "row 0 of train has no 'input_ids'"),
        ({"train": [{"input_ids": [2], "label": 2}]}, "must be a whole number from 0 to 1"),
        ({"test": None}, "finetune needs data"),
        ({"epoch": 3}, r"'epoch' in train.*did you mean 'epochs'"),
        ({"precision": "bf16"}, "precision.*engine="),
        ({"engine": {"precison": "bf16"}}, "'precison' in engine.*did you mean 'precision'"),
        ({"engine": {"keep_checkpoints": 0}}, r"engine\.keep_checkpoints=0.*1 or more"),
        ({"metrics": ["accuracy", "f2"]}, "unknown metric 'f2': allowed are "),
        ({"metrics": ["pearson"]}, "pearson.*numbers"),
        ({"metrics": []}, "metrics is empty"),
    ],
)
def test_wrong_input_is_one_sentence(given, change, words):
    model, tokenizer, rows = given
    data = {**rows, **{k: v for k, v in change.items() if k in ("train", "test")}}
    data = {k: v for k, v in data.items() if v is not None}
    others = {k: v for k, v in change.items() if k not in ("train", "test")}
    with pytest.raises(UserError, match=words):
        finetune(model, tokenizer, data, LoRA(), **{**SMALL, **others})


def test_a_half_precision_decoder_without_padding_comes_back_whole(given):
    from transformers import GPT2Config, GPT2ForSequenceClassification

    _, tokenizer, rows = given
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2, num_labels=2
    )
    model = GPT2ForSequenceClassification(config).to(torch.bfloat16)
    ids = {
        split: [{"input_ids": r["input_ids"], "label": r["labels"]} for r in part]
        for split, part in rows.items()
    }
    run = finetune(model, tokenizer, ids, LoRA(rank=2), **SMALL)
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    batch = tokenizer.pad([{"input_ids": r["input_ids"]} for r in ids["test"]], return_tensors="pt")
    with torch.no_grad():
        found = run.model(**batch).logits.argmax(1).tolist()
    labels = [row["label"] for row in ids["test"]]
    accuracy = sum(a == b for a, b in zip(found, labels, strict=True)) / len(labels)
    assert accuracy == pytest.approx(run.result["metrics"]["accuracy"])
    assert model.dtype == torch.bfloat16
    assert model.config.pad_token_id is None


def test_classes_and_methods_that_do_not_search_are_refused(given):
    model, tokenizer, rows = given
    with pytest.raises(UserError, match=r"must be an instance, AutoLoRA\(\)"):
        finetune(model, tokenizer, rows, AutoLoRA, **SMALL)
    with pytest.raises(UserError, match=r"must search ranks, LoRACut\(\) or AutoLoRA\(\).*LoRA"):
        search_ranks(model, tokenizer, rows["train"], LoRA(), **SMALL)
    with pytest.raises(UserError, match=r"hold_out=0 .*here are none"):
        search_ranks(model, tokenizer, rows["train"], LoRACut(hold_out=0.0), **SMALL)


def test_gradients_are_computed_where_a_notebook_has_them_switched_off(given):
    model, tokenizer, rows = given
    wanted = finetune(model, tokenizer, rows, LoRA(rank=2), **SMALL).result["test_loss"]
    with torch.no_grad():
        found = finetune(model, tokenizer, rows, LoRA(rank=2), **SMALL)
        assert not torch.is_grad_enabled()
    assert found.result["test_loss"] == wanted
    with torch.inference_mode(), pytest.raises(UserError, match="inference_mode"):
        finetune(model, tokenizer, rows, LoRA(rank=2), **SMALL)


def test_of_two_threads_one_waits(given):
    model, tokenizer, rows = given

    def loss(seed):
        tuned = finetune(model, tokenizer, rows, LoRA(rank=2), seed=seed, **SMALL)
        return tuned.result["test_loss"]

    wanted = [loss(seed) for seed in (0, 1)]
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(loss, (0, 1))) == wanted


def test_what_is_asked_wrongly_is_told_in_the_words_of_python(given):
    model, tokenizer, rows = given
    with pytest.raises(UserError, match="folder=/proc/x/y"):
        finetune(model, tokenizer, rows, LoRA(rank=2), folder="/proc/x/y", **SMALL)
    run = finetune(model, tokenizer, rows, LoRA(rank=2), **SMALL)
    with pytest.raises(UserError) as error:
        run.predict([3])
    assert "text_pair" not in str(error.value)


def test_a_notebook_is_left_as_it_was(given):
    """Draws, warnings and the libraries' bars; a wrong argument leaves no less."""
    model, tokenizer, rows = given
    transformers.utils.logging.enable_progress_bar()
    transformers.utils.logging.set_verbosity_warning()
    datasets.enable_progress_bars()

    def state():
        return (
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
            list(warnings.filters),
            transformers.utils.logging.get_verbosity(),
            transformers.utils.logging.is_progress_bar_enabled(),
            datasets.are_progress_bars_disabled(),
        )

    before = state()
    found = [finetune(model, tokenizer, rows, LoRA(rank=2), **SMALL) for _ in range(2)]
    assert state() == before
    assert found[0].result["test_loss"] == found[1].result["test_loss"]
    search_ranks(model, tokenizer, rows["train"], AutoLoRA(rank=2), **SMALL)
    with pytest.raises(UserError, match=r"epoch.*did you mean 'epochs'") as error:
        finetune(model, tokenizer, rows, epoch=3)
    assert "precision" not in str(error.value)
    assert state() == before
