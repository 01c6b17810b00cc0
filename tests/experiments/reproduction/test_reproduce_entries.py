"""The papers' tables as conf/experiment has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bilevel.errors import UserError
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.reproduction.cells import Cell
from experiments.reproduction.entries import Entry, folder, load, names
from experiments.reproduction.options import Options
from experiments.reproduction.planning import plan
from experiments.reproduction.published import find, shown
from experiments.reproduction.smoke import STAND_INS

CONF = folder().parent
NAMES = names()


def exists(group: str, option: str) -> bool:
    return (CONF / group / f"{option}.yaml").is_file()


def cells_of(entry: Entry, *words: str) -> list[Cell]:
    return plan(entry, Options.parse([f"table={entry.name}", *words]))


def test_every_paper_has_entries() -> None:
    assert {name.split("/")[0] for name in NAMES} == {
        *("autolora", "bilora", "delta_lora", "salora", "bidora")
    }


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_parses_and_plans_and_names_what_there_is(name: str) -> None:
    entry = load(name)
    cells = cells_of(entry)
    assert entry.heading
    assert len({cell.folder for cell in cells}) == len(cells)
    assert entry.kind == "table" or entry.figure
    # Whatever is not known must be said: no paper tells all of its settings.
    assert entry.unknown
    assert len(cells_of(entry, "scale=smoke")) <= len(cells)
    for cell in cells:
        assert cell.task in STAND_INS
        assert exists("task", cell.task), cell.task
        for group in ("method", "model"):
            assert exists(group, cell.settings[group]), cell.settings[group]
    for block in entry.blocks:
        for published in block.published:
            assert published.source
            assert published.values


def test_shared_runs_are_those_of_the_other_table() -> None:
    cells = cells_of(load("salora/orthogonality"))
    others = {cell.folder: cell.settings for cell in cells_of(load("salora/glue"))}
    assert {cell.task for cell in cells} == {"cola", "stsb", "mrpc"}
    assert all(others[cell.folder] == cell.settings for cell in cells)


def test_runs_of_several_tables_are_put_together() -> None:
    cells = cells_of(load("autolora/ranks"), "seeds=0")
    found = [(cell.block.table, cell.task, cell.settings["model"]) for cell in cells]
    assert found == [
        ("autolora/glue", "qqp", "roberta-base"),
        ("autolora/glue", "mnli", "roberta-base"),
        ("autolora/nlg", "e2e", "gpt2-medium"),
    ]


def test_recalled_figures_never_stand_by_themselves() -> None:
    (block,) = load("autolora/glue").blocks
    recalled = find(block.published, "AutoLoRA", "cola")
    assert shown(recalled, "cola") == "(recalled) 61.3"
    # The one figure of the row that the paper's text has.
    assert shown(find(block.published, "AutoLoRA", "avg"), "avg") == "85.5"
    assert shown(None, "cola") == "-"


def test_a_grid_is_one_run_a_value() -> None:
    cells = cells_of(load("autolora/cost"), "only=lora_grid", "only=sst2", "seeds=0")
    assert [cell.settings["method.rank"] for cell in cells] == [str(r) for r in range(1, 17)]


def write(root: Path, text: str) -> Path:
    (root / "paper").mkdir(exist_ok=True)
    (root / "paper" / "one.yaml").write_text(text)
    return root


GOOD = """
paper: p
title: t
seeds: [0]
blocks:
  - model: demo
    tasks: {demo: }
    rows: {LoRA: {method: lora}}
    published: [{row: LoRA, confidence: recalled, source: s, values: {demo: 1.0}}]
"""


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("confidence: recalled, ", "", "confidence"),
        ("confidence: recalled", "confidence: sure", "verified, third_party, recalled"),
        ("values: {demo: 1.0}", "values: {demo: '?'}", "must be a number"),
        ("values: {demo: 1.0}", "values: {cola: 1.0}", "cola.*column"),
        ("row: LoRA", "row: DoRA", "DoRA.*row"),
        ("{method: lora}", "{}", "either method or not_run"),
        (
            "{method: lora}",
            "{method: full_qv, settings: {train.lr: 1e-4}}",
            r"train.lr.*full_qv.*method.optimizer.lr \(2e-05\)",
        ),
        (
            "{method: lora}",
            "{method: lora, settings: {method.optimizer.lr: .001}, tasks: {demo: {train.lr: 1}}}",
            r"train.lr.*lora.*method.optimizer.lr \(0.001\)",
        ),
        (
            "{method: lora}",
            "{method: lora, settings: {method.optimizer.lr: fast}}",
            "method.optimizer.lr=fast.*number",
        ),
        ("title: t", "titel: t", "title.*missing"),
        ("seeds: [0]", "seeds: [0]\nseed: 1", "unknown seed"),
        ("model: demo", "model: demo\n    recipe: none", "recipe 'none'"),
    ],
)
def test_slips_in_a_file_are_told(tmp_path: Path, before: str, after: str, message: str) -> None:
    assert load("paper/one", write(tmp_path, GOOD)).blocks
    with pytest.raises(UserError, match=message):
        load("paper/one", write(tmp_path, GOOD.replace(before, after)))


SHARED = """
paper: p
title: t
seeds: [0]
runs_of: {table: paper/one, rows: [LoRA]}
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[LoRA]", "[LoRA, DoRA]"),
        ("rows: [LoRA]", "tasks: [cola]"),
        ("rows: [LoRA]", "models: [x]"),
    ],
)
def test_runs_of_what_a_table_does_not_have_are_refused(
    tmp_path: Path, before: str, after: str
) -> None:
    root = write(tmp_path, GOOD)
    (root / "paper" / "two.yaml").write_text(SHARED)
    assert [list(block.rows) for block in load("paper/two", root).blocks] == [["LoRA"]]
    (root / "paper" / "two.yaml").write_text(SHARED.replace(before, after))
    with pytest.raises(UserError, match=r"runs_of.*paper/one does not have"):
        load("paper/two", root)


def test_a_shared_rate_is_for_the_rows_that_take_it(tmp_path: Path) -> None:
    shared = GOOD.replace("model: demo", "model: demo\n    settings: {train.lr: 1e-4}")
    rows = "{LoRA: {method: lora}, FT: {method: full, settings: {method.optimizer.lr: 3e-5}}}"
    entry = load("paper/one", write(tmp_path, shared.replace("{LoRA: {method: lora}}", rows)))
    lora, full = (cell.settings for cell in cells_of(entry))
    assert lora["train.lr"] == "1e-4"
    assert "train.lr" not in full
    assert full["method.optimizer.lr"] == "3e-5"


def test_full_fine_tuning_of_large_models_has_its_rate_and_not_loras() -> None:
    for cell in cells_of(load("bilora/glue"), "only=full*", "only=roberta-large"):
        assert cell.settings["method.optimizer.lr"] == "1e-5"
        assert "train.lr" not in cell.settings


@pytest.mark.parametrize(
    "name", ["bilora/e2e", "bilora/webnlg_dart", "delta_lora/e2e", "autolora/nlg"]
)
def test_gpt2_warms_up_for_500_steps(name: str) -> None:
    for cell in cells_of(load(name)):
        assert cell.settings["train.warmup_steps"] == "500"
    for cell in cells_of(load(name), "scale=smoke"):
        assert "train.warmup_steps" not in cell.settings


def test_delta_lora_begins_in_a_smoke_run() -> None:
    (full, *_) = cells_of(load("delta_lora/xsum"), "only=Delta-LoRA")
    (small,) = cells_of(load("delta_lora/xsum"), "only=Delta-LoRA", "scale=smoke")
    assert full.settings["method.start_step"] == "1000"
    assert "method.start_step" not in small.settings


def row_samples() -> list[Cell]:
    """One run of each row of each table, twice where tasks have settings of their own."""
    found: dict[tuple[str, str, str, str], list[Cell]] = {}
    for name in NAMES:
        for cell in cells_of(load(name)):
            block, row = cell.block, cell.block.rows[cell.row]
            here = found.setdefault((block.table, block.model, block.caption, cell.row), [])
            if len(here) < (2 if row.tasks else 1):
                here.append(cell)
    return [cell for cells in found.values() for cell in cells]


@pytest.mark.slow
def test_the_settings_are_options_of_their_methods_and_tasks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for cell in row_samples():
        words = [f"{key}={value}" for key, value in cell.settings.items()]
        Plan.of(compose_config([*words, "task.data_dir=here"]))
    assert "is not used" not in caplog.text  # of a learning rate that the method ignores


@pytest.mark.parametrize("name", NAMES)
def test_two_level_methods_say_their_hypergradient(name: str) -> None:
    """The papers' code took Betty's difference, which is not the default here."""
    for cell in cells_of(load(name), "seeds=0"):
        if cell.settings["method"].startswith(("autolora", "bilora", "bidora", "salora_bilevel")):
            assert cell.settings["hypergradient"] in ("finite_difference", "none"), cell.folder
