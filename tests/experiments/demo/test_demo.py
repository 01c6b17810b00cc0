"""The demo: its language, its committed model, its pretraining and what it ends with."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import DataCollatorWithPadding

from bilevel.data import ResumableLoader
from bilevel.errors import UserError
from experiments.answers import CLASSES, Answers
from experiments.demo import pretrain
from experiments.demo.__main__ import said_of, verdict
from experiments.models.pretrained import LoadedModel
from experiments.models.spec import ModelSpec
from experiments.models.target_modules import target_modules
from experiments.tasks.demo import Demo
from experiments.tasks.made_up.grammar import labelled, riddles, unlabelled
from experiments.tasks.made_up.lexicon import ADJECTIVES, OUTCOMES, VERBS
from tests.experiments.scored import classes_run

DEMO = ModelSpec("demo", package="experiments.demo")


def clause_polarity(words):
    """What a reader makes of one clause: its opinion word, turned round by a negation."""
    polarity = 0
    for sign in (+1, -1):
        known = set(ADJECTIVES[sign]) | {form for verb in VERBS[sign] for form in verb}
        polarity += sign * sum(word in known for word in words)
    negations = {"not", "far", "never", "anything", "nobody"}
    return -polarity if negations & set(words) else polarity


def reader(text):
    """The language's rules, read from the other end: sentence to label."""
    text = text.replace("anything but", "anything")
    if text.startswith("although") or ", although" in text:
        clauses = [part.split() for part in text.split(" , ")]
        deciding = [c for c in clauses if c[0] != "although" and clause_polarity(c)]
    elif " but " in text:
        deciding = [text.split(" but ")[1].split()]
    else:
        deciding = [part.split() for part in text.split(" and ")]
    return int(sum(clause_polarity(clause) for clause in deciding) > 0)


def test_labels_follow_the_rules_of_the_language():
    assert all(reader(text) == label for text, label in labelled(500, seed=3))


def test_counting_opinion_words_does_not_solve_the_task():
    examples = labelled(2000, seed=4)
    positive, negative = (
        set(ADJECTIVES[sign]) | {form for verb in VERBS[sign] for form in verb} for sign in (1, -1)
    )
    score = [
        sum((word in positive) - (word in negative) for word in text.split())
        for text, _ in examples
    ]
    right = [(s > 0) == label if s else 0.5 for s, (_, label) in zip(score, examples, strict=True)]
    assert sum(right) / len(right) < 0.7


def test_noise_changes_labels_only_and_as_many_as_told():
    clean, noisy = labelled(2000, 0), labelled(2000, 0, noise=0.1)
    assert [text for text, _ in clean] == [text for text, _ in noisy]
    wrong = sum(a != b for (_, a), (_, b) in zip(clean, noisy, strict=True))
    assert 150 <= wrong <= 250
    assert sum(label for _, label in clean) == 1000


def test_sentences_depend_on_the_seed_alone():
    assert labelled(50, 1, 0.2) == labelled(50, 1, 0.2)
    assert labelled(50, 1) != labelled(50, 2)
    assert unlabelled(50, 1) == unlabelled(50, 1)


def test_outcomes_are_in_unlabelled_text_only():
    outcomes = {text.format(word) for text, *words in OUTCOMES for word in words}
    assert all(text.split(" , ")[-1] in outcomes for text in unlabelled(200, 0))
    assert not any(outcome in text for outcome in outcomes for text, _ in labelled(200, 0))


def test_a_riddle_has_one_gap_and_its_answer_follows_from_the_sentence():
    for text, right, wrong in riddles(200, 0, "[MASK]"):
        sentence, outcome = text.rsplit(" , ", 1)
        assert text.count("[MASK]") == 1
        good = [g for words, g, b in OUTCOMES if words.format("[MASK]") == outcome]
        assert {right, wrong} <= {word for _, g, b in OUTCOMES for word in (g, b)}
        assert (right in good) == reader(sentence)


def test_task_sizes_and_no_test_sentence_in_training():
    data = Demo(max_train=100, max_test=150).load()
    assert len(data.train) == 100
    assert len(data.tests["test"]) == 150
    assert not {e.texts for e in data.train} & {e.texts for e in data.tests["test"]}
    assert Demo(max_train=100, data_seed=1).load().train != data.train
    wrong = sum(reader(e.texts[0]) != e.label for e in data.tests["test"])
    assert 0.03 < wrong / 150 < 0.2, "the share of wrong labels is the task's noise, 0.1"
    clean = Demo(max_train=100, max_test=150, noise=0.0).load()
    assert all(reader(e.texts[0]) == e.label for e in clean.tests["test"])


@pytest.mark.parametrize("options", [{"max_train": 0}, {"noise": 0.5}, {"noise": -0.1}])
def test_impossible_demo_tasks(options):
    with pytest.raises(UserError):
        Demo(**options)


def test_the_committed_model_knows_every_word_and_loads():
    loaded = DEMO.load(Answers(CLASSES, 2), 0)
    tokenizer = loaded.tokenizer
    texts = [text for text, _ in labelled(1000, 7)] + unlabelled(1000, 7)
    encoded = tokenizer(texts)["input_ids"]
    assert not any(tokenizer.unk_token_id in ids for ids in encoded)
    assert max(map(len, encoded)) <= tokenizer.model_max_length == pretrain.LENGTH
    assert loaded.head_modules == ["classifier", "bert.pooler"]
    folder = Path(DEMO.source())
    assert sum(file.stat().st_size for file in folder.iterdir()) < 4_000_000
    with torch.no_grad():
        logits = loaded.model(**tokenizer(texts[:4], padding=True, return_tensors="pt")).logits
    assert logits.shape == (4, 2)


def accuracy_after_lora(loaded, epochs):
    """Test accuracy of rank-8 LoRA on query and value, trained on the demo task's noisy labels."""
    data = Demo(max_test=500).load()
    train = data.tokenise(loaded.tokenizer, data.train)
    test = data.tokenise(loaded.tokenizer, data.tests["test"])
    torch.manual_seed(0)
    model = get_peft_model(
        loaded.model,
        LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=8,
            lora_alpha=16,
            target_modules=target_modules(loaded.model, "qv"),
            modules_to_save=loaded.head_modules,
        ),
    ).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    loader = ResumableLoader(train, 16, DataCollatorWithPadding(loaded.tokenizer))
    for _ in range(epochs):
        for batch in loader:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.eval()
    batch = loader.collate(test)
    with torch.no_grad():
        logits = model(**batch).logits
    return data.score({"test": logits.numpy()})["accuracy"]


def test_lora_on_the_committed_model_learns_what_a_random_one_does_not():
    assert accuracy_after_lora(DEMO.load(Answers(CLASSES, 2), 0), epochs=4) > 0.75
    loaded = DEMO.load(Answers(CLASSES, 2), 0)
    torch.manual_seed(0)
    random = type(loaded.model)(loaded.model.config)
    untrained = LoadedModel(random, loaded.tokenizer, loaded.head_modules, loaded.task_type)
    assert accuracy_after_lora(untrained, epochs=4) < 0.7


def test_masking_hides_what_it_asks_for_and_nothing_else():
    ids = torch.randint(0, 3, (50, 40))
    rates = torch.tensor([0.0, 0.25, 1.0])
    masked, labels = pretrain.mask(ids, rates, torch.Generator().manual_seed(0), mask_token=9)
    hidden = masked == 9
    assert torch.equal(masked[~hidden], ids[~hidden])
    assert torch.equal(labels[hidden], ids[hidden])
    assert (labels[~hidden] == -100).all()
    assert not hidden[ids == 0].any()
    assert hidden[ids == 2].all()
    assert 0.15 < hidden[ids == 1].float().mean() < 0.35


def test_pretraining_lowers_the_loss_and_writes_a_loadable_model(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "TEXTS", 2000)
    arguments = ["pretrain", "--steps", "60", "--batch-size", "16", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    monkeypatch.setattr(pretrain, "understanding", lambda model, tokenizer: 0.5)
    trained = []
    original = pretrain.pretrain
    monkeypatch.setattr(pretrain, "pretrain", lambda *a: trained.append(original(*a)) or trained[0])
    pretrain.main()
    model, tokenizer = trained[0]
    batch = tokenizer(unlabelled(64, 5), padding=True, return_tensors="pt")
    rates = pretrain.masking_rates(tokenizer)
    generator = torch.Generator().manual_seed(0)
    ids, labels = pretrain.mask(batch["input_ids"], rates, generator, tokenizer.mask_token_id)
    torch.manual_seed(0)
    losses = []
    for candidate in (pretrain.build_model(len(tokenizer)).eval(), model):
        with torch.no_grad():
            output = candidate(ids, attention_mask=batch["attention_mask"], labels=labels)
        losses.append(output.loss.item())
    assert losses[1] < 0.9 * losses[0]
    loaded = ModelSpec("new", pretrained=str(tmp_path)).load(Answers(CLASSES, 2), 0)
    assert loaded.head_modules == ["classifier", "bert.pooler"]
    name = "encoder.layer.3.output.dense.weight"
    assert torch.equal(loaded.model.bert.get_parameter(name), model.bert.get_parameter(name))


def test_the_demo_compares_the_three_and_says_where_nothing_was_learned():
    def run(parameters: int, loss: float, seconds: float) -> dict:
        return {
            "adapter_parameters": parameters,
            "test_loss": loss,
            "processor_seconds": {"train": seconds},
        }

    runs = run(5000, 0.44, 60.0), run(6000, 0.43, 25.0), run(2000, 0.42, 30.0)
    said = verdict(*runs, learned=True)
    assert "2,000 parameters, test loss 0.420" in said
    assert "2.0 times" in said
    assert "learned nothing" in verdict(*runs, learned=False)


def test_the_demo_ends_with_what_its_differences_are_worth(tmp_path):
    right = {"lora": range(0, 60, 2), "autolora": range(1, 60, 2), "lora_cut": range(60)}
    runs = {
        tmp_path / name: classes_run(tmp_path / name, [i in found for i in range(60)], name)
        for name, found in right.items()
    }
    said = " ".join(said_of(runs).split())
    assert "against lora: lora_cut is better" in said
    assert "no difference shown for autolora" in said
    assert "one seed" in said
