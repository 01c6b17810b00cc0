"""``export hub=USER/NAME``: what is sent, and what is said where nothing is."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from experiments import export
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.training.job import execute
from tests.experiments.fake_hub import FakeHub, fake_hub


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "run"
    words = ["task=demo", "model=demo", "method=lora", "task.max_train=16", "task.max_test=8"]
    words += ["train.max_steps=2", "engine.precision=fp32", "run.figures=false"]
    execute(Plan.of(compose_config([*words, "engine.checkpoint_every=0"])), folder)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield found


def refused(words: list[str], capsys: Any) -> str:
    with pytest.raises(SystemExit) as stop:
        export.main(words)
    assert stop.value.code == 2
    found = capsys.readouterr()
    assert "hf_secret" not in found.err + found.out
    (line,) = [line for line in found.err.splitlines() if line.startswith("error:")]
    return line


def test_the_folder_is_sent_as_it_lies(run: Path, hub: FakeHub, capsys: Any) -> None:
    export.main([f"run={run}", "hub=me/films", "private=true"])
    assert capsys.readouterr().out.strip() == f"{hub.url}/me/films"
    folder = run / "adapter"
    assert hub.files.keys() == {path.name for path in folder.iterdir()}
    for name, content in hub.files.items():
        if name != "README.md":
            assert content == (folder / name).read_bytes()
    card = hub.files["README.md"].decode()
    assert 'folder = "me/films"\n' in card
    old = [x for x in (folder / "README.md").read_text().splitlines() if "folder = " not in x]
    assert [line for line in card.splitlines() if "folder = " not in line] == old
    assert hub.made is not None
    assert (hub.made["organization"], hub.made["name"]) == ("me", "films")
    assert hub.made.get("visibility") == "private" or hub.made["private"] is True
    assert hub.tokens - {None} == {"Bearer hf_secret"}


def test_a_dry_run_asks_nothing(
    run: Path, hub: FakeHub, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")

    def closed(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", closed)
    export.main([f"run={run}", "hub=me/films", "dry_run=true"])
    said = capsys.readouterr().out
    assert hub.asked == []
    for path in (run / "adapter").iterdir():
        assert path.name in said
    weights = (run / "adapter" / "adapter_model.safetensors").stat().st_size
    assert f"{weights / 1000:.1f} kB" in said


def test_a_merged_model_is_made_and_sent(
    run: Path, tmp_path: Path, hub: FakeHub, capsys: Any
) -> None:
    words = [f"run={run}", f"out={tmp_path}", "merge=true", "hub=me/merged"]
    export.main([*words, "dry_run=true"])
    assert "config.json" in capsys.readouterr().out
    path = tmp_path / "merged" / "README.md"
    path.write_text(path.read_text().replace("library_name", "license: mit\nlibrary_name", 1))
    export.main(words)  # what lies there, the user's words in its card too
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= hub.files.keys()
    assert b"license: mit" in hub.files["README.md"]
    assert json.loads(hub.files["config.json"])["id2label"] == {"0": "negative", "1": "positive"}


def test_one_sentence_where_nothing_is_sent(
    run: Path, hub: FakeHub, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"run={run}", "hub=me/films"]
    for name in ("films", "a/b/c", "../x", "me/"):
        assert "USER/NAME" in refused([f"run={run}", f"hub={name}"], capsys)
    assert "hub=USER/NAME" in refused([f"run={run}", "private=true"], capsys)
    assert "private=yes" in refused([*words, "private=yes"], capsys)
    hub.existing = {"id": "me/films", "private": False, "siblings": [{"rfilename": "config.json"}]}
    assert "public" in refused([*words, "private=true"], capsys)
    assert "another kind" in refused(words, capsys)
    hub.existing, hub.status = None, 403
    assert "right to write" in refused(words, capsys)
    assert not hub.files
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in refused(words, capsys)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")
    assert "hf auth login" in refused(words, capsys)
