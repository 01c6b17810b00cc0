"""What a configuration can name is known, and checked, without the libraries that compute."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "peft", "transformers", "datasets", "sklearn", "scipy", "pandas", "pyarrow")
HEAVY += ("matplotlib", "numpy")
TASKS = {
    "classification.Classification": {"data_dir": "x", "text_columns": ["text"]},
    "dart.DART": {"data_dir": "x"},
    "demo.Demo": {},
    "demo_generation.DemoGeneration": {},
    "demo_tagging.DemoTagging": {},
    "e2e.E2E": {},
    "glue.Glue": {"name": "sst2"},
    "instructions.Instructions": {"data_dir": "x"},
    "planted.Planted": {},
    "tagging.Tagging": {"data_dir": "x"},
    "text_to_text.TextToText": {"data_dir": "x"},
    "webnlg.WebNLG": {"data_dir": "x"},
    "xsum.XSum": {},
}
CLASSES = {f"experiments.tasks.{name}": values for name, values in TASKS.items()}
CLASSES["experiments.models.ModelSpec"] = {"name": "x", "dtype": "bfloat16"}
CLASSES["experiments.models.PlantedModel"] = {"planted": {"ranks": [1, 2, 3, 4, 4, 3, 2, 1]}}

PROGRAM = """
import importlib, json, sys

from bilevel.errors import UserError
from bilevel.settings import from_values, options

wrong = []
for name, values in json.loads(sys.argv[1]).items():
    module, _, cls = name.rpartition(".")
    target = getattr(importlib.import_module(module), cls)
    from_values(target, values, "group")
    wrong += [f"{cls}.{o.name}" for o in options(target) if not o.meaning]
for name, values in json.loads(sys.argv[2]):
    module, _, cls = name.rpartition(".")
    try:
        from_values(getattr(sys.modules[module], cls), values, "group")
    except UserError:
        continue
    wrong.append(f"{name} takes {values}")
print(json.dumps([wrong, [name for name in json.loads(sys.argv[3]) if name in sys.modules]]))
"""

MISTAKES = [
    ("experiments.tasks.classification.Classification", {"data_dir": "x"}),
    (
        "experiments.tasks.classification.Classification",
        {**TASKS["classification.Classification"], "metrics": ["bleu"]},
    ),
    ("experiments.tasks.e2e.E2E", {"metrics": ["accuracy"]}),
    ("experiments.tasks.glue.Glue", {"name": "sst2", "primary_metric": "bleu"}),
    ("experiments.tasks.planted.Planted", {"planted": {"ranks": [1]}}),
    ("experiments.models.ModelSpec", {"name": "x", "dtype": "float64"}),
]


@pytest.fixture(scope="module")
def found() -> list[list[str]]:
    words = map(json.dumps, (CLASSES, MISTAKES, HEAVY))
    command = [sys.executable, "-c", PROGRAM, *words]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_every_option_has_a_meaning_and_every_mistake_is_told(found):
    assert found[0] == []


def test_nothing_heavy_is_loaded_for_that(found):
    assert found[1] == []
