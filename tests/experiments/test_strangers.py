"""Run folders of somebody else's: nothing in them is called, imported, resolved or written through.

Each attack would leave a file behind; ``sprung`` says whether it did.
"""

import copy
import json
import logging
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from bilevel.checkpoint import sums
from bilevel.errors import UserError
from experiments import evaluate, export
from experiments.cli import resume
from experiments.cli.command_line import CommandLine
from experiments.cli.log_lines import Formatter
from experiments.cli.messages import sentence
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.results import record, saved_model
from experiments.results.finished_run import SavedRun

OLDER = Path(__file__).parent / "older_runs"
NO_WORDS = CommandLine.parse([])


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(OLDER / "finished", tmp_path / "finished"))


@pytest.fixture
def interrupted(tmp_path):
    return Path(shutil.copytree(OLDER / "interrupted", tmp_path / "interrupted"))


@pytest.fixture
def trap(tmp_path):
    return tmp_path / "sprung"


def change(folder, **groups):
    """Put values into the configuration of a run's folder."""
    path = folder / ".hydra" / "config.yaml"
    values = yaml.safe_load(path.read_text())
    for name, value in groups.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(values))


def calls(trap):
    """Configurations of a task that would run something when they are followed."""
    touch = f"touch {trap}"
    code = f"open({str(trap)!r}, 'w')"
    return {
        "torch's": {"_target_": "torch.utils.collect_env.run", "command": touch},
        "os": {"_target_": "os.system", "command": touch},
        "a builtin": {"_target_": "builtins.exec", "object": code},
        "a function of ours": {
            "_target_": "experiments.cli.writing.write_atomically",
            "path": str(trap),
            "text": "",
        },
        "another of ours": {
            "_target_": "bilevel.checkpoint.save_state",
            "path": str(trap),
            "state": {},
        },
        "in ours": {"_target_": "experiments.run.training.os.system", "command": touch},
        "a method": {"_target_": "pathlib.Path.touch", "self": str(trap)},
        "relative": {"_target_": "..os.system", "command": touch},
        "a class of another group": {"_target_": "problems.lora.LoRA"},
        "the abstract class": {"_target_": "experiments.tasks.task.Task", "name": "x"},
        "one of Python's": {"_target_": "experiments.tasks.in_memory.GivenTask", "data": {}},
        "partly": {"_target_": "os.system", "_partial_": True, "_args_": [touch]},
        "inside": {"name": {"_target_": "os.system", "command": touch}},
        "arguments": {"_args_": [touch], "_convert_": "all"},
    }


@pytest.mark.parametrize("name", calls(""))
def test_a_configuration_calls_only_classes_of_its_group(name, folder, trap):
    call = calls(trap)[name]
    change(folder, task=call)
    # By what is named, not by arguments that something else does not take.
    said = r"task\._target_=" if "_target_" in call else r"task\.name=|'_args_'"
    with pytest.raises(UserError, match=said):
        SavedRun.open(str(folder), NO_WORDS, []).task()
    assert not trap.exists()


@pytest.mark.parametrize("name", ["torch's", "a function of ours"])
def test_nor_does_that_of_the_stages_or_of_the_model(name, folder, trap):
    change(folder, model=calls(trap)[name])
    run = SavedRun.open(str(folder), NO_WORDS, [])
    with pytest.raises(UserError, match=r"model\._target_"):
        run.base(run.task())
    config = yaml.safe_load((folder / ".hydra/config.yaml").read_text())
    config["task"] = calls(trap)[name]
    shutil.rmtree(folder / ".hydra")
    (folder / "checkpoints").mkdir(exist_ok=True)
    journal = {"config": config, "stages": {}}
    (folder / "checkpoints/stages.json").write_text(json.dumps(journal))
    with pytest.raises(UserError, match=r"task\._target_"):
        SavedRun.open(str(folder), NO_WORDS, []).task()
    assert not trap.exists()


@pytest.mark.parametrize("program", [evaluate, export])
def test_the_programs_say_it_in_a_sentence(program, folder, trap, capsys):
    change(folder, task=calls(trap)["torch's"])
    with pytest.raises(SystemExit, match="2"):
        program.main([f"run={folder}"])
    assert "task._target_=torch.utils.collect_env.run" in capsys.readouterr().err
    assert not trap.exists()


@pytest.mark.parametrize("group", ["method", "task", "model", "hypergradient"])
def test_a_run_that_is_resumed_calls_only_classes_of_its_groups(group, interrupted, trap):
    call = {"_target_": "torch.utils.collect_env.run", "command": f"touch {trap}"}
    words = [f"++{group}.{key}={json.dumps(value)}" for key, value in call.items()]
    with open(interrupted / ".hydra/overrides.yaml", "a") as file:
        file.writelines(f"- '{word}'\n" for word in words)
    change(interrupted, **{group: call})
    with pytest.raises(UserError, match=rf"{group}\._target_|holds another run"):
        Plan.of(compose_config(resume.expand(CommandLine.parse([f"run.resume={interrupted}"]))))
    assert not trap.exists()


def test_modules_in_the_folder_are_not_imported(folder, trap, monkeypatch):
    monkeypatch.chdir(folder.parent)
    monkeypatch.syspath_prepend(str(folder.parent))  # as python -m does
    for place in (folder / "__init__.py", folder / "mine.py"):
        place.write_text(f"open({str(trap)!r}, 'w')")
    change(folder, task={"_target_": "finished.mine.Task"})
    with pytest.raises(UserError, match="--config-dir"):
        SavedRun.open("finished", NO_WORDS, []).task()
    change(folder, task={"_target_": "experiments.tasks.demo.Demo"})
    change(folder, model={"_target_": "experiments.models.ModelSpec", "package": "finished.mine"})
    run = SavedRun.open("finished", NO_WORDS, [])
    task = run.task()
    with pytest.raises(UserError, match="package"):
        run.base(task)
    assert not trap.exists()


HYDRA = (
    "hydra.searchpath=[file://{own}]",
    "+hydra.callbacks.x._target_=os.system",
    "++hydra.callbacks.x={{_target_:os.system,command:ls}}",
    "~hydra.callbacks.report",
    "hydra/launcher=joblib",
    "+hydra/launcher=joblib",
    "hydra/job_logging@hydra.job_logging=none",
    "+task@hydra.callbacks.x=demo",
    "+method@hydra.launcher=lora",
    " hydra.verbose=true",
    "++  hydra.verbose=true",
)


@pytest.mark.parametrize("word", HYDRA)
def test_words_for_hydra_are_dropped(word, interrupted, tmp_path):
    (tmp_path / "planted.py").write_text("")
    with open(interrupted / ".hydra" / "overrides.yaml", "a", encoding="utf-8") as file:
        file.write(f"- '{word.format(own=tmp_path)}'\n")
    words = resume.expand(CommandLine.parse([f"run.resume={interrupted}"]))
    assert [w for w in words if "hydra" in w.partition("=")[0]] == [f"hydra.run.dir={interrupted}"]
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize("word", ["method={away}", "+extra={away}", "method=../../lora"])
def test_an_option_is_no_path_to_somewhere_else(word, interrupted, tmp_path):
    (tmp_path / "own.yaml").write_text("# @package hydra.callbacks\nx: {_target_: os.system}\n")
    away = "/".join([".."] * 30 + [*tmp_path.parts[1:], "own"])
    with open(interrupted / ".hydra" / "overrides.yaml", "a", encoding="utf-8") as file:
        file.write(f"- '{word.format(away=away)}'\n")
    with pytest.raises(UserError, match="is not followed"):
        resume.expand(CommandLine.parse([f"run.resume={interrupted}"]))


RESOLVERS = (
    "${oc.env:SECRET}",
    "x/${oc.env:SECRET}",
    "${oc.decode:${oc.env:SECRET}}",
    "${hydra:runtime.cwd}",
    "${oc.create:{a:1}}",
    "\\\\${oc.env:SECRET}",
    "${seed}${oc.env:SECRET}",
)


@pytest.mark.parametrize("value", RESOLVERS)
def test_nothing_is_resolved(value, folder, interrupted, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    change(folder, model={"pretrained": value})
    with pytest.raises(UserError, match=r"model.pretrained.*not followed") as told:
        SavedRun.open(str(folder), NO_WORDS, [])
    assert "hunter2" not in str(told.value)
    given = SavedRun.open(str(folder), NO_WORDS, ["model.pretrained=here"])
    assert given.config.model.pretrained == "here"
    with open(interrupted / ".hydra" / "overrides.yaml", "a", encoding="utf-8") as file:
        file.write(f"- 'model.pretrained=\"{value}\"'\n")
    with pytest.raises(UserError, match=r"model.pretrained.*not followed"):
        resume.expand(CommandLine.parse([f"run.resume={interrupted}"]))


def test_another_value_of_the_file_is(folder):
    # conf/model/planted.yaml takes the task's problem.
    change(folder, model={"revision": "${oc.select:task.name,null}"})
    assert SavedRun.open(str(folder), NO_WORDS, []).config.model.revision == "demo"
    chain = {f"a{i}": f"${{task.a{i + 1}}}${{task.a{i + 1}}}" for i in range(60)}
    change(folder, task=chain)
    with pytest.raises(UserError, match="not followed"):
        SavedRun.open(str(folder), NO_WORDS, [])


YAML = {
    "an object": ("extra: !!python/object/apply:os.system ['touch {trap}']", "constructor"),
    "a name": ("extra: !!python/name:os.system", "constructor"),
    "a module": ("extra: !!python/module:subprocess", "constructor"),
    "a path": ("extra: !!python/object/apply:pathlib.PosixPath [a]", "PosixPath is no plain value"),
    "a bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nextra: [*b, *b]", "alias"),
    "itself": ("extra: &a [*a]", "alias"),
    "deep": ("extra: " + "[" * 60 + "]" * 60, "more than 50"),
    "deep and open": ("extra: " + "[" * 5000, "more than 50"),
    "long": ("extra: " + "1" * 10000, "digits"),
    "large": ("extra: '" + "x" * 2**21 + "'", "larger than 1 MiB"),
    "binary": ("extra: !!binary aGk=", "bytes is no plain value"),
    "a set": ("extra: !!set {a}", "set is no plain value"),
}


@pytest.mark.parametrize("name", YAML)
def test_yaml_is_plain_values_of_some_size(name, folder, trap):
    text, said = YAML[name]
    with open(folder / ".hydra/config.yaml", "a", encoding="utf-8") as file:
        file.write(text.replace("{trap}", str(trap)) + "\n")
    with pytest.raises(UserError, match=rf"config\.yaml.*{said}"):
        SavedRun.open(str(folder), NO_WORDS, [])
    assert not trap.exists()


@pytest.mark.parametrize("name", ["figures", "run.lock", "adapter", "summary.csv"])
def test_links_out_of_the_folder_are_not_followed(name, folder, interrupted, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for place in (folder, interrupted):
        if (place / name).is_dir():
            shutil.rmtree(place / name)
        (place / name).unlink(missing_ok=True)
        (place / name).symlink_to(precious)
    with pytest.raises(UserError, match=rf"{name} is a link"):
        SavedRun.open(str(folder), NO_WORDS, [])
    with pytest.raises(UserError, match=rf"{name} is a link"):
        resume.expand(CommandLine.parse([f"run.resume={interrupted}"]))
    assert precious.read_text() == "mine"


def test_a_folder_cannot_allow_its_model_s_own_code(folder, interrupted):
    change(folder, model={"trust_remote_code": True})
    open_ = SavedRun.open
    assert open_(str(folder), NO_WORDS, []).config.model.trust_remote_code is False
    now = open_(str(folder), NO_WORDS, ["model.trust_remote_code=true"])
    assert now.config.model.trust_remote_code is True
    change(interrupted, model={"trust_remote_code": True})
    with open(interrupted / ".hydra" / "overrides.yaml", "a") as file:
        file.write("- ++model.trust_remote_code=true\n")
    line = [f"run.resume={interrupted}"]
    with pytest.raises(UserError, match=r"model\.trust_remote_code=true again"):
        resume.expand(CommandLine.parse(line))
    said = resume.expand(CommandLine.parse([*line, "model.trust_remote_code=true"]))
    assert "model.trust_remote_code=true" in said


def adapters(trap):
    """Options of an adapter that PEFT would import, unpickle or fetch something for."""
    return {
        "a module": {"megatron_config": {"a": 1}, "megatron_core": "mine"},
        "a file": {"corda_config": {"cache_file": str(trap)}, "init_lora_weights": "corda"},
        "another kind": {"peft_type": "XLORA", "adapters": {"a": "some/hub"}},
        "a start": {"peft_type": "MULTITASK_PROMPT_TUNING", "num_tasks": 2},
        "a tokenizer": {"peft_type": "PROMPT_TUNING", "tokenizer_kwargs": {"x": 1}},
    }


@pytest.fixture(scope="module")
def base():
    run = SavedRun.open(str(OLDER / "finished"), NO_WORDS, [])
    return run.base(run.task()).model


@pytest.mark.parametrize("name", adapters(""))
def test_an_adapter_says_what_it_is_and_no_more(name, folder, trap, base, monkeypatch, tmp_path):
    (tmp_path / "mine.py").write_text(f"open({str(trap)!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **adapters(trap)[name]}))
    with pytest.raises(UserError, match="adapter_config"):
        saved_model.load(folder / "adapter", copy.deepcopy(base))
    assert not trap.exists()


class Sprung:
    """Opens a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt"])
@pytest.mark.parametrize("place", ["adapter", "adapter_compact"])
def test_pickled_weights_are_not_read(name, place, folder, trap, base):
    (folder / place / "adapter_model.safetensors").unlink()
    (folder / place / name).write_bytes(pickle.dumps(Sprung(trap)))
    with pytest.raises(UserError, match="pickle"):
        saved_model.load(folder / place, copy.deepcopy(base))
    assert not trap.exists()


def test_a_whole_model_that_is_a_pickle(folder, trap, base):
    base.save_pretrained(folder / "model")
    (folder / "model" / "model.safetensors").unlink()
    (folder / "model" / "pytorch_model.bin").write_bytes(pickle.dumps(Sprung(trap)))
    with pytest.raises(UserError, match="pickle"):
        saved_model.load(folder / "model", copy.deepcopy(base))
    assert not trap.exists()


@pytest.mark.parametrize("part", [None, "text_config"])
@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_whole_model_that_names_kernels_of_the_hub(key, part, folder, base):
    """transformers fetches them and imports them, where its package ``kernels`` is installed."""
    base.save_pretrained(folder / "model")
    path = folder / "model" / "config.json"
    option = {key: "owner/repository"}
    option = option if part is None else {part: option}
    path.write_text(json.dumps(json.loads(path.read_text()) | option))
    with pytest.raises(UserError, match=rf"{key}=owner/repository is not followed"):
        saved_model.load(folder / "model", copy.deepcopy(base))


def test_a_runs_own_base_that_names_kernels_or_is_damaged(folder, base):
    """The weights that a run was started from are in its folder, as the adapter is."""
    run = SavedRun.open(str(folder), NO_WORDS, [])
    task = run.task()
    base.save_pretrained(folder / "base")
    path = folder / "base" / "config.json"
    good = path.read_text()
    path.write_text(json.dumps(json.loads(good) | {"experts_implementation": "owner/repository"}))
    with pytest.raises(UserError, match="owner/repository is not followed"):
        run.base(task)
    path.write_text(good)
    sums.seal(folder / "base")
    weights = folder / "base" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 16
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"base/model\.safetensors is damaged"):
        run.base(task)


def test_its_base_model_is_not_asked_for(folder, base, monkeypatch):
    path = folder / "adapter" / "adapter_config.json"
    said = {"base_model_name_or_path": "some/model", "revision": "x", "task_type": "SEQ_CLS"}
    said["auto_mapping"] = {"base_model_class": "run", "parent_library": "torch.utils.collect_env"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **said}))

    def asked(*_, **__):
        raise AssertionError("nothing is fetched")

    monkeypatch.setattr("huggingface_hub.file_download.hf_hub_download", asked)
    monkeypatch.setattr("importlib.import_module", asked)
    assert saved_model.load(folder / "adapter", copy.deepcopy(base)) is not None


def test_names_do_not_lead_out_of_the_folder(folder):
    path = folder / "result.json"
    shutil.copytree(folder / "adapter", folder.parent / "adapter")
    for name in ("..", "../..", "/", "", ".hydra", "x/.."):
        path.write_text(json.dumps({**json.loads(path.read_text()), "adapter_dir": name}))
        with pytest.raises(UserError, match="adapter_dir"):
            record.saved_folder(record.read(folder), folder)
    path.write_text(json.dumps({**json.loads(path.read_text()), "adapter_dir": "/x/adapter"}))
    assert record.saved_folder(record.read(folder), folder) == folder / "adapter"


def test_names_do_not_paint_the_terminal(tmp_path):
    odd = tmp_path / "a\x1b[2Jb\nerror: all is well"
    odd.mkdir()
    with pytest.raises(UserError) as error:
        SavedRun.open(str(odd), NO_WORDS, [])
    told = sentence(error.value)
    assert "\x1b" not in told
    assert "\n" not in told
    record_ = logging.LogRecord("x", logging.INFO, "", 0, "run in %s", (str(odd),), None)
    said = Formatter("%(message)s").format(record_)
    assert "\x1b" not in said
    assert "\nerror" not in said
