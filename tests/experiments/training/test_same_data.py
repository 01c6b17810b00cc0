"""A run goes on with the data that it began with, wherever they lie."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bilevel.errors import UserError
from experiments.stored_data.examples import StoredExamples
from experiments.tasks.demo_sources import DemoSources
from experiments.tasks.examples import Example, Origin
from experiments.tasks.kinds.labelled import LabelledData
from experiments.training.finished_stages import Journal, check_config
from experiments.training.same_data import check_data, data_digests, file_digests, model_digests
from problems.lora import LoRA

CONFIG: dict[str, Any] = {"a": 1}
EXAMPLES = [Example((f"text {i}",), i % 2) for i in range(6)]


def of_two_classes(train: Any) -> LabelledData:
    tests = {"test": EXAMPLES[:2]}
    return LabelledData("t", train, tests, "test", ("accuracy",), 8, label_names=["x", "y"])


def test_what_the_examples_say_in_their_order() -> None:
    given = data_digests(of_two_classes(EXAMPLES))
    assert set(given) == {"train", "test"}
    assert given == data_digests(of_two_classes(list(EXAMPLES)))
    turned = data_digests(of_two_classes(EXAMPLES[::-1]))
    assert turned["train"] != given["train"]
    assert turned["test"] == given["test"]


def test_wherever_they_lie() -> None:
    stored = StoredExamples.write(EXAMPLES)
    in_memory = data_digests(of_two_classes(EXAMPLES))
    assert data_digests(of_two_classes(stored)) == in_memory
    part = data_digests(of_two_classes(stored.taken([4, 1])))
    assert part == data_digests(of_two_classes([EXAMPLES[4], EXAMPLES[1]]))
    assert part["train"] != in_memory["train"]


def test_where_they_come_from(tmp_path: Path) -> None:
    def of(names: str) -> dict[str, str]:
        pairs = zip(EXAMPLES, names, strict=True)
        train = [
            e._replace(origin=Origin("f", i, source=name)) for i, (e, name) in enumerate(pairs)
        ]
        return data_digests(of_two_classes(train))

    given, plain = of("aabbcc"), data_digests(of_two_classes(EXAMPLES))
    assert "sources" not in plain
    assert {name: given[name] for name in plain} == plain
    check_data(tmp_path, given, of("aabbcc"))
    check_data(tmp_path, plain, given)  # of an older run
    with pytest.raises(UserError, match=r"the sources of the training examples are not those"):
        check_data(tmp_path, given, of("ababcc"))


def test_examples_of_an_unknown_kind_have_none() -> None:
    assert "train" not in data_digests(of_two_classes([object()]))


def test_other_data_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoints" / "stages.json"
    data = {"train": "a", "test": "b"}
    Journal(path, CONFIG, resume=False, data=data).finish("search", {}, None)
    assert "search" in Journal(path, CONFIG, resume=True, data=data).finished
    other = {"train": "x", "test": "b"}
    for goes_on in (
        lambda: Journal(path, CONFIG, resume=True, data=other),
        lambda: check_config(path, CONFIG, other),
    ):
        with pytest.raises(UserError, match=r"run of other data: the examples of train are not"):
            goes_on()
    check_config(path, CONFIG)  # nothing has been read


def test_what_files_of_options_say_decides_too(tmp_path: Path) -> None:
    ranks = tmp_path / "ranks.json"
    task = DemoSources(source_weights="some.json")
    plan: Any = SimpleNamespace(method=LoRA(ranks=str(ranks)), task=task)
    train = [Example((str(i),), 0, Origin("train", i, source="ab"[i % 2])) for i in range(4)]
    data: Any = SimpleNamespace(train=train, draw_weights=(1.0, 0.5) * 2)
    found = []
    for rank in (1, 2):
        ranks.write_text(json.dumps({"ranks": {"a": rank}}))
        found.append(file_digests(plan, data))
    given: Any = SimpleNamespace(train=train, draw_weights=(1.0, 0.25) * 2)
    other = file_digests(plan, given)
    assert set(other) == {"method.ranks", "task.source_weights"}
    more: Any = SimpleNamespace(train=[*train, *train], draw_weights=(1.0, 0.5) * 4)
    assert file_digests(plan, more) == found[1]  # which examples there are is told of the data
    path = tmp_path / "run" / "checkpoints" / "stages.json"
    Journal(path, CONFIG, resume=False, data=found[1])
    Journal(path, CONFIG, resume=True, data=found[1])
    with pytest.raises(UserError, match=r"another content of what method\.ranks names: put"):
        Journal(path, CONFIG, resume=True, data=found[0])
    with pytest.raises(UserError, match=r"of what task\.source_weights names"):
        Journal(path, CONFIG, resume=True, data=other)
    Journal(path, CONFIG, resume=False, data={"train": "a", **found[1]})
    with pytest.raises(UserError, match=r"the examples of train are not"):
        Journal(path, CONFIG, resume=True, data={"train": "b", **other})
    plan.method, plan.task = LoRA(), replace(task, source_weights="uniform")
    assert file_digests(plan, data) == {}


def test_the_weights_that_it_begins_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, before = tmp_path / "own", tmp_path / "run"
    for folder in (own, before / "adapter"):
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
        (folder / "optimizer.pt").write_bytes(b"moments")
    monkeypatch.setattr(
        "experiments.training.warm_start.read_run", lambda *_: {"adapter_dir": "there/adapter"}
    )
    model = SimpleNamespace(pretrained=str(own), warm_start=str(before), title="x")
    plan: Any = SimpleNamespace(model=model)
    given = model_digests(plan)
    assert set(given) == {"model.pretrained", "model.warm_start"}
    (own / "optimizer.pt").write_bytes(b"others")
    (own / "pytorch_model.bin").write_bytes(b"not read beside safetensors")
    (own / "trainer_state.json").write_text("{}")
    assert model_digests(plan) == given
    (before / "adapter" / "adapter_model.safetensors").write_bytes(b"trained again")
    with pytest.raises(UserError, match=r"another content of what model\.warm_start names: put"):
        check_data(tmp_path, given, model_digests(plan))
    (own / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"what model\.pretrained and model\.warm_start name: put"):
        check_data(tmp_path, given, model_digests(plan))
    (own / "adapter_model.safetensors").unlink()
    pickled = model_digests(plan)
    (own / "pytorch_model.bin").write_bytes(b"read now")
    assert model_digests(plan)["model.pretrained"] != pickled["model.pretrained"]
    plan.model = SimpleNamespace(pretrained="owner/name", warm_start=None, title="x")
    assert model_digests(plan) == {}


def test_older_and_damaged_journals(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "stages.json"
    Journal(path, CONFIG, resume=False, data={"train": "a"})
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in saved.items() if k != "data"}))
    Journal(path, CONFIG, resume=True, data={"train": "b"})
    path.write_text(json.dumps({**saved, "data": ["a"]}))
    with pytest.raises(UserError, match=r"damaged.*data"):
        Journal(path, CONFIG, resume=True, data={"train": "b"})
