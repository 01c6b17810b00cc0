"""Which table or figure of a paper each entry is, and docs/reproduce.md's table of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from experiments.reproduction.entries import Entry, folder, load, names
from experiments.reproduction.options import Options
from experiments.reproduction.planning import plan

GLUE = "mnli sst2 mrpc cola qnli qqp rte stsb"
SMALL = "mrpc cola rte stsb"
FIGURE_6 = "cola stsb mrpc"
BASE, LARGE, XXL = "roberta-base", "roberta-large", "deberta-v2-xxlarge"
MEDIUM = "gpt2-medium"
SALORA = "LoRA (six matrices), SaLoRA"
FT_LORA = "full fine-tuning, Adapter, LoRA (r=4), AdaLoRA, AutoLoRA"
DELTA = (
    "full fine-tuning, FT, embeddings frozen, FT, Wq and Wv only, LoRA, DyLoRA, AdaLoRA, Delta-LoRA"
)

# entry -> number in the paper, models, tasks, rows (those that must be there, in this order)
LIST: dict[str, tuple[str | None, str, str, str]] = {
    "autolora/glue": ("Table 1", BASE, GLUE, FT_LORA),
    "autolora/nlg": ("Table 2", MEDIUM, "e2e webnlg", FT_LORA),
    "autolora/bionlp": ("Table 3", BASE, "jnlpba", FT_LORA),
    "autolora/ablation": ("Table 4", BASE, GLUE, "AutoLoRA, no constraint, sigmoid, eta = 0"),
    "autolora/cost": ("Table 5", BASE, "sst2 mnli qqp", "AdaLoRA, AutoLoRA, LoRA, grid search"),
    "autolora/roberta_large": ("Figure 2", LARGE, "mrpc qqp sst2", FT_LORA),
    "autolora/ranks": ("Figure 3", f"{BASE} {MEDIUM}", "qqp mnli e2e", "AutoLoRA"),
    "autolora/selection": (None, BASE, "cola", "AutoLoRA"),
    "bilora/glue": ("Table 1", f"{BASE} {LARGE}", GLUE, "full fine-tuning, LoRA, BiLoRA"),
    "bilora/deberta_v3_base": ("Table 2", "deberta-v3-base", GLUE, "AdaLoRA (r=2), BiLoRA"),
    "bilora/e2e": ("Table 3", f"{MEDIUM} gpt2-large", "e2e", "full fine-tuning, LoRA, BiLoRA"),
    "bilora/webnlg_dart": ("Table 4", MEDIUM, "webnlg dart", "full fine-tuning, LoRA, BiLoRA"),
    "bilora/deberta_xxl": ("Table 5", XXL, "mrpc rte stsb", "full fine-tuning, LoRA, BiLoRA"),
    "bilora/parameterisation": (
        *("Table 6", BASE, GLUE),
        "LoRA, BiLoRA, real, approximately binary",
    ),
    "bilora/gamma1": ("Table 7", BASE, SMALL, "gamma1 = 0, gamma1 = 0.1"),
    "bilora/time": ("Table 8", BASE, GLUE, "LoRA, BiLoRA"),
    "bilora/adalora_weight_decay": ("Table 9", "deberta-v3-base", GLUE, "AdaLoRA (r=2)"),
    "bilora/overfitting": ("Figure 1", BASE, SMALL, "LoRA, BiLoRA, AdaLoRA"),
    "bilora/adalora_pruning": ("Figure 3", BASE, SMALL, "AdaLoRA, AdaLoRA, 1 of 12"),
    "bilora/singular_values": ("Figure 5", BASE, SMALL, "BiLoRA, AdaLoRA"),
    "bilora/orthogonality": ("Figures 6 and 7", BASE, SMALL, "gamma1 = 0, gamma1 = 0.3"),
    "delta_lora/e2e": ("Table 1", MEDIUM, "e2e", DELTA),
    "delta_lora/webnlg": ("Table 2", MEDIUM, "webnlg", DELTA),
    "delta_lora/xsum": ("Table 3", "bart-large", "xsum", "LoRA, DyLoRA, AdaLoRA, Delta-LoRA"),
    "delta_lora/glue": ("Table 4", BASE, GLUE, DELTA),
    "delta_lora/dropout": ("Table 5", MEDIUM, "e2e", "LoRA, Delta-LoRA"),
    "delta_lora/learning_rate": ("Table 6", MEDIUM, "e2e", "LoRA, Delta-LoRA"),
    "delta_lora/cosine": ("Figure 3", MEDIUM, "e2e", "FT, Wq and Wv only, LoRA, Delta-LoRA"),
    "salora/glue": (
        *("Table 1", f"{BASE} {LARGE}", GLUE),
        f"full fine-tuning, Adapter-H, Adapter-P, Prefix, Prompt, {SALORA}",
    ),
    "salora/style_transfer": (
        *("Table 2", "hub", "instructions"),
        "human references, StyTrans, StyIns, TSST, LoRA (six matrices), AdaLoRA, SaLoRA",
    ),
    "salora/ablation": ("Table 3", BASE, FIGURE_6, "SaLoRA, no Lagrangian, no orthogonality"),
    "salora/cost": ("Table 4", f"{BASE} {LARGE}", "mrpc", SALORA),
    "salora/modules": ("Figure 1", BASE, FIGURE_6, "W_q alone, W_down alone, layer 12 alone"),
    "salora/ranks": ("Figure 4", LARGE, FIGURE_6, f"{SALORA}, LoRA (r=2), SaLoRA (r=16)"),
    "salora/densities": ("Figure 5", LARGE, FIGURE_6, f"{SALORA}, density 0.125"),
    "salora/density_over_steps": ("Figure 6", BASE, FIGURE_6, "SaLoRA"),
    "salora/orthogonality": ("Figure 6", BASE, FIGURE_6, "SaLoRA"),
    "salora/ranks_by_layer": ("Figure 7", BASE, "cola mrpc", "AdaLoRA, SaLoRA"),
    "salora/learning_rates": (None, f"{BASE} {LARGE}", GLUE, "SaLoRA, SaLoRA, eta_p 3e-5"),
    "bidora/glue": ("Table 1", f"{BASE} {LARGE} {XXL}", GLUE, "LoRA, DoRA, BiDoRA"),
    "bidora/ranks_8_16": ("Table 2", BASE, "sst2 mrpc cola qnli rte stsb", "LoRA, BiDoRA (r=8)"),
}

DOCS = folder().parents[1] / "docs" / "reproduce.md"
HEAD = "| entry | of the paper | our runs | what is known of the published figures |"


def test_every_entry_is_in_the_list() -> None:
    assert sorted(LIST) == names()


@pytest.mark.parametrize("name", LIST)
def test_an_entry_is_of_the_number_models_tasks_and_rows_of_the_paper(name: str) -> None:
    entry = load(name)
    number, models, tasks, rows = LIST[name]
    assert entry.number == number
    assert {block.model for block in entry.blocks} == set(models.split())
    assert {task for block in entry.blocks for task in block.tasks} == set(tasks.split())
    labels = list(dict.fromkeys(label for block in entry.blocks for label in block.rows))
    begun = iter(labels)
    for wanted in _rows(rows, labels):
        assert any(label.startswith(wanted) for label in begun), f"{wanted} in {labels}"
    kind = "figure" if (number or "Table").startswith("Figure") else "table"
    assert entry.kind == kind or number is None


def _rows(text: str, labels: list[str]) -> list[str]:
    """The rows that a text names, whose own commas stay where a row is so called."""
    parts, found = text.split(", "), []
    while parts:
        for length in range(len(parts), 0, -1):
            name = ", ".join(parts[:length])
            if length == 1 or any(label.startswith(name) for label in labels):
                found.append(name)
                parts = parts[length:]
                break
    return found


def line_of(entry: Entry) -> str:
    """An entry's line in the docs."""
    cells = plan(entry, Options(table=entry.name))
    shared = Counter(cell.block.table for cell in cells if cell.block.table != entry.name)
    of = ", ".join(f"{count} of `{table}`" for table, count in shared.items())
    known = Counter(p.confidence for b in entry.blocks for p in b.published for _ in p.values)
    surest = ("verified", "third_party", "recalled")
    figures = ", ".join(f"{known[c]} {c.replace('_', ' ')}" for c in surest if known[c])
    number = entry.number or f"{entry.kind}, number unknown"
    runs = f"{len(cells)} ({of})" if of else f"{len(cells)}"
    return f"| `{entry.name}` | {number}: {entry.title} | {runs} | {figures or 'none'} |"


def test_the_docs_have_the_entries_as_they_are() -> None:
    text = Path(DOCS).read_text(encoding="utf-8")
    lines = text.split(HEAD + "\n")[1].split("\n\n")[0].split("\n")[1:]
    assert lines == [line_of(load(name)) for name in names()]
