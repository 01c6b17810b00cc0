"""The card of a saved model: its lines load what lies beside it and say what the run has said."""

import ast
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from peft import AutoPeftModelForSequenceClassification
from scipy.stats import binomtest

from bilevel.checkpoint.sums import check_sums
from experiments import evaluate, export
from experiments.answers import CLASSES as CLASSES_KIND
from experiments.answers import TAGS, Answers
from experiments.artefacts.card_lines import lines
from experiments.artefacts.usage import Usage
from experiments.comparing.score_interval import score_interval
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.models.base_reference import of_hub
from experiments.training.job import execute
from tests.experiments import architectures
from tests.experiments.artefacts import cards

SMALL = ["model=hub", "model.pretrained=base", "task.data_dir=.", "engine.precision=fp32"]
SMALL += ["train.epochs=1", "train.batch_size=4", "train.lr=0.05", "run.figures=false"]
SMALL += ["engine.checkpoint_every=0", "engine.evaluate_every=0"]
WORDS = [f"w{i}" for i in range(1, 10)]
ONE = ["task=classification", "task.text_columns=text"]
PAIR = ["task=classification", "task.text_columns=[text,other]"]
WRITE = ["task=text_to_text", "task.source_column=text", "task.target_column=other"]
WRITE += ["task.metrics=[bleu]", "task.decoding.max_new_tokens=4", "task.max_length=24"]
THREE = ["zero", 'one: "1" | ```', "two's\n---"]
LORA = ["method=lora", "method.rank=2"]


def row(i: int, label: Any) -> dict[str, Any]:
    """An example of words."""
    words = [WORDS[(k * i + i // 9) % 9] for k in (1, 2, 5)]
    other = [WORDS[(k * i + 4) % 9] for k in (1, 3)]
    return {"text": " ".join(words), "other": " ".join(other), "words": words, "label": label}


def of(number: int) -> Callable[[int], Any]:
    """Labels of a kind of task."""
    return {
        1: lambda i: (i % 7) / 4,
        2: lambda i: ["no", "yes"][i % 2],
        3: lambda i: THREE[i % 3],
    }[number]


def trained(here: Path, kind: str, label: Callable[[int], Any], *words: str) -> Path:
    """A run in a folder ``here``, which holds its data and its base model."""
    for split, start in (("train", 0), ("test", 5)):
        examples = [json.dumps(row(i, label(i))) for i in range(start, start + 16)]
        (here / f"{split}.jsonl").write_text("\n".join(examples))
    architectures.save(kind, here / "base", text="text_to_text" in words[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        execute(Plan.of(compose_config([*SMALL, *words])), Path("out/run"))
    return here / "out" / "run"


def said(run: Path) -> dict[str, Any]:
    """What the run has said of its first test example."""
    found: dict[str, Any] = json.loads((run / "predictions.jsonl").read_text().splitlines()[0])
    return found


def asked(folder: Path, here: Path, place: str = "") -> tuple[str, dict[str, Any]]:
    """What the lines of a card print about the first test example, and what they define.

    Args:
        folder: with the card.
        here: where they are run.
        place: a line for the folder where it was moved.
    """
    (code,) = cards.blocks(folder)
    code = re.sub("^folder = .*$", place, code, flags=re.MULTILINE) if place else code
    first = row(5, None)
    places = {"The first text.": "text", "The second text.": "other", "A text.": "text"}
    for old, column in places.items():
        code = code.replace(old, first[column])
    code = code.replace('["One", "word", "after", "another", "."]', repr(first["words"]))
    scope, printed = cards.run(code, here)
    return printed, scope


CLASSES = {
    "three": ("bert", 3, ONE, LORA),
    "pairs": ("roberta", 2, PAIR, LORA),
    "reads_the_end": ("gpt2", 3, PAIR, LORA),
    "dora": ("bert", 3, ONE, ["method=dora"]),
    "bottleneck": ("bert", 3, ONE, ["method=pfeiffer"]),
    "probe": ("bert", 3, ONE, ["method=linear_probe"]),
    "probe_of_a_head": ("roberta", 2, PAIR, ["method=linear_probe", "method.pooling=head"]),
    "prompt": ("bert", 3, ONE, ["method=prompt"]),
}


@pytest.mark.parametrize("name", CLASSES)
def test_lines_of_classes(name: str, tmp_path: Path) -> None:
    kind, number, task, method = CLASSES[name]
    run = trained(tmp_path, kind, of(number), *task, *method)
    folders = [path for path in run.glob("adapter*") if path.is_dir()]
    for folder in folders:
        printed, scope = asked(folder, tmp_path)
        expected = said(run)
        assert ast.literal_eval(printed[: printed.index("]") + 1]) == [expected["prediction"]]
        assert scope["probabilities"][0].tolist() == pytest.approx(
            expected["probabilities"], abs=2e-6
        )
        assert not scope["model"].training
    assert len(folders) == (2 if method == LORA else 1)
    if name.startswith("probe"):  # whether it can be merged is said of the one that it is
        merges = name == "probe_of_a_head"
        assert ("puts this one into the head" in (folders[0] / "README.md").read_text()) == merges


def test_lines_of_numbers(tmp_path: Path) -> None:
    regression = ["task.regression=true", "task.metrics=[pearson]"]
    run = trained(tmp_path, "llama", of(1), *ONE, *regression, *LORA)
    printed, _ = asked(run / "adapter", tmp_path)
    assert ast.literal_eval(printed) == pytest.approx([said(run)["prediction"]], abs=1e-5)


def test_lines_of_label_sets(tmp_path: Path) -> None:
    def label(i: int) -> list[str]:
        return [name for k, name in enumerate(THREE) if (i + k) % (k + 2)]

    run = trained(tmp_path, "bert", label, *ONE, "task.multi_label=true", *LORA)
    printed, scope = asked(run / "adapter_compact", tmp_path)
    assert ast.literal_eval(printed) == said(run)["prediction"]
    assert scope["probabilities"] == pytest.approx(said(run)["probabilities"], abs=2e-6)


def test_lines_of_label_sets_say_them_at_the_threshold_of_the_run(tmp_path: Path) -> None:
    def label(i: int) -> list[str]:
        return [name for k, name in enumerate(THREE) if (i + k) % (k + 2)]

    talks = "\n".join(json.dumps(row(i, label(i))) for i in range(30, 46))
    (tmp_path / "validation.jsonl").write_text(talks)
    options = ["task.multi_label=true", "task.threshold=validation", "train.lr=0.002"]
    run = trained(tmp_path, "bert", label, *ONE, *options, *LORA)
    expected = said(run)
    threshold = json.loads((run / "result.json").read_text())["threshold"]
    printed, _ = asked(run / "adapter", tmp_path)
    assert ast.literal_eval(printed) == expected["prediction"]
    # Half would say something else, or this test could not fail.
    by_half = [n for n, p in zip(THREE, expected["probabilities"], strict=True) if p > 0.5]
    assert set(by_half) != set(expected["prediction"])
    assert f"above {threshold:g}" in (run / "adapter" / "README.md").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        export.main(["run=out/run", "merge=true", "out=out"])
        printed, _ = asked(tmp_path / "out" / "merged", tmp_path)
    assert set(ast.literal_eval(printed.splitlines()[-1])) == set(expected["prediction"])


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_lines_of_tags(kind: str, tmp_path: Path) -> None:
    def label(i: int) -> list[str]:
        return [["O", "B-X", "B-Y"][(i + k) % 3] for k in range(3)]

    task = ["task=tagging", "task.tokens_column=words", "task.tags_column=label"]
    run = trained(tmp_path, kind, label, *task, *LORA)
    printed, _ = asked(run / "adapter", tmp_path)
    assert [tag for _, tag in ast.literal_eval(printed)] == said(run)["prediction"]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bart", "t5"])
def test_lines_of_text(kind: str, tmp_path: Path) -> None:
    beams = ["train.lr=1e-3", "task.decoding.beams=3", "task.decoding.length_penalty=0.8"]
    beams += ['task.separator=" w9"'] if kind == "llama" else []
    run = trained(tmp_path, kind, of(2), *WRITE, *beams, *LORA)
    printed, _ = asked(run / "adapter", tmp_path)
    assert printed.strip() == said(run)["prediction"].strip() != ""


MERGED = {
    "three": ("bert", of(3), ONE),
    "number": ("bert", of(1), [*ONE, "task.regression=true", "task.metrics=[pearson]"]),
    "pairs": ("gpt2", of(2), PAIR),
    "text": ("gpt2", of(2), [*WRITE, "train.lr=1e-3", "task.separator=' w9'"]),
    "two": ("bart", of(2), [*WRITE, "train.lr=1e-3", "task.decoding.no_repeat_ngram=2"]),
}


@pytest.mark.parametrize("name", MERGED)
def test_a_merged_model_stands_by_itself(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, label, task = MERGED[name]
    run = trained(tmp_path, kind, label, *task, *LORA)
    monkeypatch.chdir(tmp_path)
    export.main(["run=out/run", "merge=true", "out=out"])
    shutil.rmtree(tmp_path / "base")  # it needs none
    (tmp_path / "out" / "merged").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    printed, scope = asked(tmp_path / "moved", tmp_path, 'folder = "moved"')
    expected = said(run)
    if name == "two":
        assert printed.strip() == expected["prediction"].strip() != ""
        return
    (answer,) = [*ast.literal_eval(printed)] if printed.startswith("[") else [eval(printed)]
    if name == "text":
        assert answer["generated_text"].strip() == expected["prediction"].strip() != ""
    elif name == "number":
        assert answer["score"] == pytest.approx(expected["prediction"], abs=1e-5)
    else:
        assert answer["label"] == expected["prediction"]
        assert answer["score"] == pytest.approx(max(expected["probabilities"]), abs=1e-5)
    assert "torch" not in scope  # a pipeline and nothing else


def test_a_whole_model_writes_as_it_was_scored(tmp_path: Path) -> None:
    words = [*WRITE, "train.lr=1e-3", "task.decoding.beams=2", "method=full"]
    run = trained(tmp_path, "t5", of(2), *words)
    settings = json.loads((run / "model" / "generation_config.json").read_text())
    assert (settings["num_beams"], settings["max_new_tokens"]) == (2, 4)
    printed, _ = asked(run / "model", tmp_path)
    assert printed.strip() == said(run)["prediction"].strip() != ""


def test_a_model_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter names the hub's id and commit, and the lines fetch both by themselves."""
    cached = tmp_path / "cache" / "models--some--bert"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    architectures.build("bert").base_model.save_pretrained(cached / "snapshots" / commit)
    architectures.tokenizer().save_pretrained(cached / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    run = trained(tmp_path, "bert", of(3), "model.pretrained=some/bert", *ONE, *LORA)
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "some/bert"
    assert cards.card(run / "adapter").data.base_model == "some/bert"
    printed, scope = asked(run / "adapter", tmp_path)
    assert "AutoPeftModelForSequenceClassification" in scope
    assert said(run)["prediction"] in ast.literal_eval(printed[: printed.index("]") + 1])


def no_place(folder: Path, place: Path) -> None:
    """That no file in a folder names a place of this machine."""
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            assert str(place) not in path.read_text(encoding="utf-8"), path


def test_nothing_of_this_machine_and_no_broken_markup(tmp_path: Path) -> None:
    home = tmp_path / "home" / "someone"
    home.mkdir(parents=True)
    absolute = [f"model.pretrained={home / 'base'}", f"task.data_dir={home}"]
    run = trained(home, "bert", of(3), *absolute, *ONE, *LORA).rename(tmp_path / "moved")
    for folder in (run / "adapter", run / "adapter_compact"):
        no_place(folder, tmp_path)
    values = json.loads((run / "result.json").read_text())
    odd = "films: [x] | <b>\n---\n```"
    values |= {"method": odd, "task": odd, "test_source": f"{home}/{odd}", "model": str(home)}
    values["configuration"]["method"] = f"LoRA(ranks='{home}/ranks.json', x='|')"
    values["data"] |= {odd: 3}
    values["versions"] = odd
    (run / "result.json").write_text(json.dumps(values))
    export.main([f"run={run}", f"out={tmp_path / 'again'}"])
    for folder in (tmp_path / "again" / "adapter", tmp_path / "again" / "adapter_compact"):
        no_place(folder, tmp_path)
        found = cards.card(folder)
        assert found.data.library_name == "peft"
        assert {score.dataset_name for score in found.data.eval_results} == {" ".join(odd.split())}
        table = [line for line in found.text.splitlines() if line.startswith("|")]
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {3}
        assert found.text.count("\n```") == 2
        assert "<b>" not in found.text
        assert eval_names(cards.blocks(folder)[0]) == sorted(THREE)


def eval_names(code: str) -> list[str]:
    """The label names in a card's lines."""
    (line,) = [line for line in ast.parse(code).body if ast.unparse(line).startswith("id2label")]
    assert isinstance(line, ast.Assign)
    return list(eval(compile(ast.Expression(line.value), "card", "eval")).values())


def test_a_card_that_its_user_has_edited_is_no_damage(tmp_path: Path) -> None:
    run = trained(tmp_path, "bert", of(3), *ONE, *LORA)
    path = run / "adapter" / "README.md"
    path.write_text(path.read_text().replace("library_name", "license: mit\nlibrary_name", 1))
    check_sums(run / "adapter")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        evaluate.main(["run=out/run"])


def test_docs_show_the_lines_as_they_are_written() -> None:
    page = (Path(__file__).parents[3] / "docs" / "artefact.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```python\n(.*?)\n```$", page, re.MULTILINE | re.DOTALL)[0]
    answers = Answers(CLASSES_KIND, 3, ("negative", "neutral", "positive"))
    usage = Usage(answers, max_length=256)
    base = of_hub("FacebookAI/roberta-base")
    assert shown == lines("peft", base, usage, "outputs/mine/adapter", "SEQ_CLS")


def test_words_have_their_space_where_the_tokenizer_marks_it() -> None:
    usage = Usage(Answers(TAGS, 2, ("O", "B-X")), max_length=64, spaced=True)
    code = lines("peft", of_hub("some/roberta"), usage, "adapter", "TOKEN_CLS")
    assert '[" " + word for word in words], is_split_into_words=True' in code


def test_peft_combines_no_two_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs and card say; switching between them works."""
    run = trained(tmp_path, "bert", of(2), *ONE, *LORA)
    monkeypatch.chdir(tmp_path)
    model = AutoPeftModelForSequenceClassification.from_pretrained("out/run/adapter")
    model.load_adapter("out/run/adapter", "other")
    model.set_adapter("other")
    with pytest.raises(ValueError, match="modules_to_save"):
        model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "both")
    assert "`add_weighted_adapter`" in cards.card(run / "adapter").text


def test_the_score_has_its_interval(tmp_path: Path) -> None:
    """Of an accuracy close to Wilson's, which knows of no draws."""
    run = trained(tmp_path, "bert", of(2), *ONE, *LORA)
    result = json.loads((run / "result.json").read_text())
    said = re.search(
        r"^\| accuracy \| ([\d.]+), 95 % interval ([\d.]+) to ([\d.]+) ",
        cards.card(run / "adapter").text,
        re.MULTILINE,
    )
    assert said is not None
    score, low, high = map(float, said.groups())
    assert score == pytest.approx(result["metrics"]["accuracy"], abs=1e-4)
    wilson = binomtest(round(score * 16), 16).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((wilson.low, wilson.high), abs=0.1)
    assert "| macro_f1 | " in cards.card(run / "adapter").text
    assert score_interval(tmp_path, result) is None  # no predictions there
