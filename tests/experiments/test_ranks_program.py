"""``experiments.ranks`` on wrong input, and what it writes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peft import PeftConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
)

from bilevel.checkpoint.sums import seal
from experiments import figures, ranks
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.training.job import execute
from tests.experiments.refusals import refused

OLDER = Path(__file__).parent / "older_runs" / "finished"


@pytest.fixture(scope="module")
def trained(quick: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of LoRA that kept a part of its data apart."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = [*quick, "method=lora", "method.hold_out=0.25", "train.epochs=6", "run.figures=false"]
    execute(Plan.of(compose_config(words)), folder)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it to write into."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


# -- words

WRONG = {
    "budget=0": "budget (0, 1]",
    "budget=1.5": "budget (0, 1]",
    "budget=nan": "budget finite",
    "budget=half": "budget number",
    "budget=": "budget number",
    "budget=true": "budget number",
    "budget=[0.5]": "budget number",
    "budget=0.1,0.2": "budget one",
    "parameters=-1": "parameters integer",
    "parameters=2.5": "parameters integer",
    "rank=1.5": "rank integer",
    "rank=x": "rank integer",
    "examples=1": "examples 2",
    "examples=9.5": "examples integer",
    "delta=0": "delta (0, 1)",
    "delta=1": "delta (0, 1)",
    "errors=-1": "errors 0 or more",
    "errors=nan": "errors finite",
    "errors=inf": "errors finite",
    "errors=two": "errors number",
    "criterion=singulr": "criterion 'singular'",
    "criterion=": "criterion singular",
    "criterion=[a]": "criterion text",
    "citerion=singular": "'citerion=singular' 'criterion'",
    "budgett=0.2": "'budgett=0.2' 'budget'",
    "method.rank=4": "'method.rank=4' run, adapter",
    "seed=3": "'seed=3' run, adapter",
    "word": "'word' name=value",
    "model=hub": "model=hub its own base",
    "task.nope=1": "'nope' task",
    "-m": "--multirun experiments.run",
    "--cfg=job": "--cfg experiments.run",
    "--bugdet": "--bugdet name=value",
}


@pytest.mark.parametrize("word", WRONG)
def test_a_wrong_word_is_told_before_a_model_loads(
    word: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.models.pretrained.load_weights", None)
    text = refused(ranks.main, [f"run={OLDER}", *word.split(" ")], capsys)
    for part in WRONG[word].split(" "):
        assert part in text


def test_help_and_mistakes_load_no_heavy_library() -> None:
    lines = [["--help"], [f"run={OLDER}", "budget=2"], [f"run={OLDER}", "rank=x"], ["run=x", "-m"]]
    lines += [
        [f"run={OLDER}", "criterion=singulr"],
        [f"run={OLDER}", "criterion=activation", "x=2"],
    ]
    wrong = "criterion_options={densty: 0.1}"
    lines += [[f"run={OLDER}", "criterion=gates", wrong], ["criterion=greedy"]]
    script = (
        "import contextlib, sys\n"
        "from experiments.ranks import main\n"
        f"for words in {lines}:\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        main(words)\n"
        "print(sorted({'torch', 'peft', 'transformers', 'matplotlib'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "adapter=DIR" in done.stdout
    assert len(done.stderr.splitlines()) == 7
    assert "densty" in done.stderr


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], "run= adapter="),
        (["run=a", "adapter=b"], "run= adapter= both"),
        (["run=nowhere"], "run=nowhere result.json"),
        (["adapter=nowhere", "model=demo"], "adapter=nowhere folder"),
        ([f"adapter={OLDER}", "model=demo"], "run="),
        ([f"run={OLDER / 'adapter_compact'}"], "adapter="),
        ([f"adapter={OLDER / 'adapter_compact'}", "budget=0.5"], "model.pretrained="),
        ([f"adapter={OLDER / 'adapter_compact'}", "model=dmeo", "budget=0.5"], "'demo'"),
        ([f"adapter={OLDER / 'adapter_compact'}", "model=demo"], "task= budget="),
        ([f"adapter={OLDER / 'adapter_compact'}", "model=demo", "task=demo"], "validation budget="),
        ([f"run={OLDER}", "budget=0.5", "rank=2"], "budget rank twice"),
        ([f"run={OLDER}"], "hold_out budget="),
    ],
)
def test_what_is_to_be_cut(
    words: list[str],
    parts: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("experiments.models.pretrained.load_weights", None)
    text = refused(ranks.main, words, capsys)
    for part in parts.split(" "):
        assert part in text


def test_a_budget_with_room_for_nothing_prints_no_ranks(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.rglob("*"))
    for word in ("budget=0.001", "parameters=3"):
        assert "component" in refused(ranks.main, [f"run={run}", word], capsys)
    assert "rank=0" in refused(ranks.main, [f"run={run}", "rank=0"], capsys)
    assert "rank=100" in refused(ranks.main, [f"run={run}", "rank=100"], capsys)
    assert sorted(run.rglob("*")) == before


# -- folders


@pytest.mark.parametrize("method", ["full", "dora", "ia3", "houlsby"])
def test_a_run_without_lora(
    method: str, quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [w for w in quick if not w.startswith("method.rank") or method == "dora"]
    words += [f"method={method}", "train.epochs=0.2", "run.figures=false"]
    execute(Plan.of(compose_config(words)), tmp_path / "run")
    assert method in refused(ranks.main, [f"run={tmp_path / 'run'}", "budget=0.5"], capsys)
    kept = "model" if method == "full" else "adapter"
    if method != "full":
        folder = tmp_path / "run" / kept
        assert "LoRA" in refused(
            ranks.main, [f"adapter={folder}", "model=demo", "budget=0.5"], capsys
        )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ranks.json", "{"),
        ("ranks.json", '{"ranks": {"mine": 3}}'),
        ("ranks/mine.txt", "x"),
        ("ranks/adapter/notes.md", "x"),
        ("ranks/mine/lora_config.json", "{}"),
        ("ranks", "a file"),
    ],
)
def test_what_others_wrote_stays(
    name: str, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("experiments.models.pretrained.load_weights", None)
    place = tmp_path / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content)
    words = [f"run={OLDER}", "budget=0.5", f"out={tmp_path}"]
    assert "out=" in refused(ranks.main, words, capsys)
    assert place.read_text() == content
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [place]


def test_no_writing_through_a_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ranks").symlink_to(tmp_path / "elsewhere")
    assert "ranks" in refused(
        ranks.main, [f"run={OLDER}", "budget=0.5", f"out={tmp_path / 'out'}"], capsys
    )
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_out_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    assert "file" in refused(
        ranks.main, [f"run={OLDER}", "budget=0.5", f"out={tmp_path / 'file'}"], capsys
    )


def test_a_second_cut_replaces_the_first(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranks.main([f"run={run}", "rank=2"])
    first = json.loads((run / "ranks.json").read_text())
    (run / "ranks" / ".frontier.png.1.tmp.png").write_text("of a writer that was killed")
    ranks.main([f"run={run}", "rank=1"])
    second = json.loads((run / "ranks.json").read_text())
    assert sum(first["ranks"].values()) == 2 * sum(second["ranks"].values()) > 0
    weights = load_file(run / "ranks" / "adapter_compact" / "adapter_model.safetensors")
    assert sum(len(t) for k, t in weights.items() if "lora_A" in k) == sum(second["ranks"].values())
    names = ["adapter", "adapter_compact", "frontier.png", "lora_config.json"]
    assert sorted(p.name for p in (run / "ranks").iterdir()) == names
    assert not (run / "ranks.partial").exists()
    capsys.readouterr()
    figures.main([str(run)])
    assert str(run / "ranks" / "frontier.png") in capsys.readouterr().out.splitlines()
    (run / "ranks.json").write_text("[]")
    with pytest.raises(SystemExit):
        figures.main([str(run)])
    assert "ranks.json" in capsys.readouterr().err


def test_a_second_cut_knows_what_it_wrote_by_its_checksums(run: Path) -> None:
    """Tokenizers have files of any name, as BERTweet's bpe.codes."""
    ranks.main([f"run={run}", "rank=2"])
    for layout in ("adapter", "adapter_compact"):
        folder = run / "ranks" / layout
        (folder / "bpe.codes").write_text("a b 1")
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tools.jinja").write_text("{}")
        seal(folder)
    ranks.main([f"run={run}", "rank=1"])
    assert not list(run.rglob("bpe.codes"))


def test_another_runs_ranks_stay(run: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    adapter = [f"adapter={run / 'adapter_compact'}", f"model.pretrained={tiny}"]
    for what in ([f"run={OLDER}"], adapter):
        assert "another run" in refused(ranks.main, [*what, "budget=0.5", f"out={run}"], capsys)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_what_was_told_is_measured(run: Path, capsys: Any) -> None:
    ranks.main([f"run={run}", "parameters=352"])
    said = capsys.readouterr().out
    found = json.loads((run / "ranks.json").read_text())
    kept = sum(found["ranks"].values())
    (point,) = [p for p in found["frontier"] if p["components"] == kept]
    assert point["parameters"] == found["parameters"]
    (line,) = [line for line in said.splitlines() if line.endswith("kept, as told")]
    assert line.split()[:2] == [str(kept), str(point["parameters"])]
    card = (run / "ranks" / "adapter" / "README.md").read_text()
    assert f"changes by {point['difference']:+.4f}" in " ".join(card.split())
    del found["learned"]
    (run / "ranks.json").write_text(json.dumps(found))
    assert "'learned'" in refused(figures.main, [str(run)], capsys)


@pytest.mark.parametrize("word", ["delta=0.5", "errors=0", "examples=64"])
def test_options_of_a_frontier_that_is_not_drawn(
    word: str, run: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"adapter={run / 'adapter_compact'}", f"model.pretrained={tiny}", "budget=0.25"]
    said = refused(ranks.main, [*words, word, f"out={tmp_path / 'out'}"], capsys)
    assert word.partition("=")[0] in said
    assert "frontier" in said


def test_a_cut_that_fails_leaves_the_one_before(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks.main([f"run={run}", "rank=2"])
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("experiments.artefacts.ranks_file.write_atomically", full)
    with pytest.raises(SystemExit) as stop:
        ranks.main([f"run={run}", "rank=1"])
    assert stop.value.code == 2
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_decided_is_said_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a run that learned something: the demo's own model in three passes."""
    words = [
        "method=lora",
        "method.hold_out=0.25",
        "method.rank=4",
        "task=demo",
        "task.max_test=20",
    ]
    words += ["train.epochs=3", "engine.precision=fp32", "engine.evaluate_every=0"]
    execute(Plan.of(compose_config([*words, "run.figures=false"])), tmp_path / "run")
    capsys.readouterr()
    ranks.main([f"run={tmp_path / 'run'}", "delta=0.2"])
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "run" / "ranks.json").read_text())
    assert "nothing learned" not in said
    assert found["learned"]
    assert 0 < sum(found["ranks"].values()) == found["chosen"]["components"] < 32
    assert found["decided"]["components"] == 32
    assert found["decided"]["kept"] == found["chosen"]["components"]
    assert found["decided"]["near"] in range(33)
    assert found["decided"]["records"] >= 3
    assert found["decided"]["words"] in said.splitlines()
    for layout in ("adapter", "adapter_compact"):  # whoever gets the adapter alone is told too
        card = (tmp_path / "run" / "ranks" / layout / "README.md").read_text()
        assert found["decided"]["words"] in card


def test_of_what_was_told_it_is_said_too_how_far_it_is_decided(run: Path, capsys: Any) -> None:
    ranks.main([f"run={run}", "rank=1"])
    said = capsys.readouterr().out
    found = json.loads((run / "ranks.json").read_text())
    assert found["learned"] is False  # so that no rank is called decided
    assert "nothing was learned" in found["decided"]["words"]
    assert found["decided"]["words"] in said.splitlines()


def test_the_configuration_is_for_stock_peft(tiny: Path, run: Path) -> None:
    ranks.main([f"run={run}", "rank=1"])
    options = json.loads((run / "ranks" / "lora_config.json").read_text())
    base = AutoModelForSequenceClassification.from_pretrained(tiny)
    model = get_peft_model(base, PeftConfig.from_peft_type(**options))
    found = {
        name.removeprefix("base_model.model."): module.r["default"]
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }
    said = json.loads((run / "ranks.json").read_text())
    assert found == {name: rank for name, rank in said["ranks"].items() if rank}
    assert said["scales"] == dict.fromkeys(said["ranks"], 4.0)  # alpha 16 at rank 4
    scales = {m.scaling["default"] for m in model.modules() if hasattr(m, "lora_A")}
    assert scales == {4.0}
