"""Wrong command lines: status 2, one sentence with the option and what is allowed, nothing left.

What the configuration alone shows is told without torch; what the data shows, before a model loads.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DATA = "task=classification task.text_columns=[text] task.data_dir=DATA model=demo"
HEAVY = ("torch", "peft", "transformers", "datasets", "sklearn", "scipy", "pandas", "matplotlib")
# Each line in a folder of its own, all in one fresh process: what is loaded counts against the
# first that loads it. A line that is taken ends where its data is read, before a model loads.
SCRIPT = f"""
import contextlib, copy, gc, io, json, os, sys, traceback
from experiments import run
from experiments.config.sources import ImportlibResourcesConfigSource as Packaged

gc.disable()  # this, and to read each file of conf/ once, halves the time
read, files = Packaged.load_config, {{}}

def load_config(self, config_path):
    place = self.path, config_path
    if place not in files:
        files[place] = read(self, config_path)
    return copy.deepcopy(files[place])

Packaged.load_config = load_config

def stop_at_the_model(app, job, config):
    raise SystemExit("a model would be loaded")

run.hydra_runs.one = stop_at_the_model
found, before = [], set()
for number, words in enumerate(json.load(sys.stdin)):
    os.mkdir(str(number))
    os.chdir(str(number))
    status, errors = 0, io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            run.main(words)
        except SystemExit as stop:
            status = stop.code
        except BaseException:
            status = traceback.format_exc()
    loaded = set({HEAVY}) & sys.modules.keys()
    found.append([status, errors.getvalue(), sorted(loaded - before), os.listdir()])
    before = loaded
    os.chdir("..")
print(json.dumps(found))
"""

# A command line -> parts of the sentence: the option, and a key word or two.
CONFIGURATION = {
    # the seed
    "seed=4294967296": "seed=4294967296 4294967295",
    "seed=99999999999999999999": "seed=99999999999999999999 4294967295",
    "seed=-1": "seed=-1 integer",
    "seed=x": "seed=x integer",
    "seed=1.5": "seed=1.5 integer",
    "seed=1e3": "seed=1000.0 integer",
    "seed=null": "seed=null integer",
    "seed=true": "seed=true integer",
    "seed=": "seed= integer",
    "seed=[1]": "seed=[1] integer",
    "'seed=\"3\"'": "seed='3' integer",
    "seed=1,2": "seed=1,2 --multirun",
    # letters and signs that Hydra wants quoted, with the quotes
    "'task.keep_sources=[\u00fc,a]'": "quoted: 'task.keep_sources=[\"\u00fc\",a]'",
    "'task.keep_sources=[a&b]'": "quoted: 'task.keep_sources=[\"a&b\"]'",
    "'task.keep_sources=[\"a,b\",\u00fc]'": "task.keep_sources is quoted",
    "method=[lora,xyz]": "method= one name --help",
    "'task.sources={\u00fc: a.csv}'": "task.sources mapping --config-dir",
    "'task.sources={a: x=y.csv}'": "task.sources mapping quoted",
    "'task.sources={a: a.csv, a: b.csv}'": "task.sources 'a' twice",
    "'task.sources={1: a.csv, 1.0: b.csv}'": "task.sources '1.0' twice",
    "'method.peft={x: {y: 1, y: 2}}'": "method.peft 'y' twice",
    "'method.peft={true: 1, TRUE: 2}'": "method.peft 'TRUE' twice",
    # what is taken away, and what is new
    "~method": "~method taken",
    "~task": "~task taken",
    "~seed": "~seed taken",
    "~train": "~train taken",
    "~train.epochs": "~train.epochs taken",
    "~method.rank=8": "~method.rank taken",
    "+train.foo=1": "'foo' train allowed",
    "++train.foo=1": "'foo' train allowed",
    "+foo=1": "'foo' allowed",
    "++foo=1": "'foo' allowed",
    "foo=1": "'foo' allowed",
    "+foo.bar=1": "'foo.bar' allowed",
    "+method.foo=1": "'foo' method allowed",
    "+task=sst2": "task more than once",
    "+seed=3": "'seed' remove",
    "+train.epochs=3": "'train.epochs' remove",
    # groups
    "method=null": "method=null one name",
    "method=": "method= one name",
    "method=[lora]": "method=[lora] one name",
    "task=[demo,sst2]": "task=[demo,sst2] one name",
    "method={rank:3}": "method={rank:3} one name",
    "method=lora,bilora": "method=lora,bilora --multirun",
    "method=Lora": "'Lora' 'lora'",
    "model=bert": "'bert' bert-base",
    "hypergradient=exact": "'exact' unrolled",
    "engine=3": "engine=3 one name",
    "train=3": "train=3 group",
    "run=x": "run=x group",
    "method.rank": "'method.rank' name=value",
    "method.rank.x=3": "rank",
    # numbers
    "method.rank=0": "method.rank=0 1 or more",
    "method.rank=8.5": "method.rank=8.5 integer",
    "method.rank=eight": "method.rank=eight integer",
    "method.rank=99999999999": "method.rank=99999999999 2147483647",
    "method.lora_alpha=-1": "method.lora_alpha=-1 more than 0",
    "method.lora_alpha=0": "method.lora_alpha=0 more than 0",
    "method.lora_dropout=1": "method.lora_dropout=1 [0, 1)",
    "method.lora_dropout=-0.1": "method.lora_dropout=-0.1 [0, 1)",
    "method.hold_out=1": "method.hold_out=1 [0, 1)",
    "method.optimizer.momentum=2": "method.optimizer.momentum=2 [0, 1)",
    "method.optimizer.momentum=-1": "method.optimizer.momentum=-1 [0, 1)",
    "method.optimizer.betas=[1.5,0.9]": "method.optimizer.betas=[1.5, 2 values",
    "method.optimizer.betas=0.9": "method.optimizer.betas=0.9 2 values",
    "method.optimizer.eps=-1": "method.optimizer.eps=-1 0 or more",
    "method.optimizer.weight_decay=-1": "method.optimizer.weight_decay=-1 0 or more",
    "method.optimizer.warmup_ratio=1.5": "method.optimizer.warmup_ratio=1.5 [0, 1]",
    "method.optimizer.name=lion": "method.optimizer.name=lion adamw",
    "method.optimizer.schedule=step": "method.optimizer.schedule=step cosine",
    "method.optimizer=sgd": "method.optimizer=sgd group",
    "train.epochs=1e300": "train.epochs=1e+300 1000000",
    "train.epochs=0": "train.epochs=0 0",
    "train.epochs=nan": "train.epochs=nan finite",
    "train.epochs=-3": "train.epochs=-3 0",
    "train.epochs=three": "train.epochs=three number",
    "train.epochs=[1,2]": "train.epochs=[1, number",
    "train.batch_size=1e300": "train.batch_size=1e+300 integer",
    "train.batch_size=100000000000000000000": "train.batch_size=100000000000000000000 2147483647",
    "train.batch_size=0": "train.batch_size=0 1 or more",
    "train.lr=1e300": "train.lr=1e+300 1000",
    "train.lr=-1e-3": "train.lr=-0.001 0",
    "train.lr=inf": "train.lr=inf finite",
    "train.lr=1e-3x": "train.lr=1e-3x number",
    "train.warmup_steps=0.1": "train.warmup_steps=0.1 integer",
    "train.max_steps=0": "train.max_steps=0 1 or more",
    "train.gradient_accumulation=0": "train.gradient_accumulation=0 1 or more",
    "train.gradient_clipping=-1": "train.gradient_clipping=-1 0 or more",
    "train.label_smoothing=1": "train.label_smoothing=1 [0, 1)",
    "train.group_by_length=maybe": "train.group_by_length=maybe true or false",
    "train.target_modules=[]": "train.target_modules=[] not empty",
    "train.target_modules=": "train.target_modules= not empty",
    "train.target_modules=[3]": "train.target_modules=[3] list",
    "train.target_modules=7": "train.target_modules=7 list",
    "engine.precision=fp64": "engine.precision=fp64 bf16",
    "engine.strategy=tpu": "engine.strategy=tpu cpu",
    "engine.evaluate_every=-1": "engine.evaluate_every=-1 0 or more",
    "engine.keep_checkpoints=0": "engine.keep_checkpoints=0 1 or more",
    "engine.checkpoint_every=1.5": "engine.checkpoint_every=1.5 integer",
    "engine.early_stopping=-1": "engine.early_stopping=-1 0 or more",
    "run.figures=maybe": "run.figures=maybe true or false",
    "run.resume=nowhere": "run.resume=nowhere folder",
    "task.max_length=2": "task.max_length=2 8 or more",
    "task.max_length=1e9": "task.max_length=1000000000.0 integer",
    "task.max_train=0": "task.max_train=0 1 or more",
    "task.subset_seed=-1": "task.subset_seed=-1 0 or more",
    "task.regression=yes": "task.regression=yes true or false",
    "task.metrics=[acuracy]": "task.metrics 'acuracy' 'accuracy'",
    "task.metrics=[]": "task.metrics",
    "task.label_column=text": "task.label_column 'text'",
    "task.text_columns=[text,text]": "task.text_columns 'text'",
    "model.dropout=1.5": "model.dropout=1.5 [0, 1)",
    "model.dtype=float16": "model.dtype=float16 bfloat16",
    "model.revision=3": "model.revision=3 text",
    "model.warm_start=nowhere": "model.warm_start=nowhere result.json",
    "method=autolora method.parameter_budget=-5": "method.parameter_budget=-5 1 or more",
    "method=autolora method.rank_rule=budget": "rank_rule=budget parameter_budget",
    "method=autolora method.unroll_steps=0": "method.unroll_steps=0 1 or more",
    "method=autolora method.split=1": "method.split=1 (0, 1)",
    "method=bilora hypergradient=unrolled hypergradient.depth=0": "hypergradient.depth=0 1 or more",
    "hydra.run.dir=FILE/x": "hydra.run.dir= file",
    "hydra.run.dir=FILE": "hydra.run.dir= file",
    "hydra.run.dir=": "hydra.run.dir empty",
    "hydra.run.dir=null": "hydra.run.dir=null needed",
    "--epochs 3": "--epochs name=value",
    "--seed=3": "--seed=3 name=value",
    "--config-dir=nowhere": "nowhere folder",
    # what other tools call it
    "learning_rate=1e-3": "'learning_rate' train.lr",
    "train.learning_rate=1e-3": "'learning_rate' train.lr",
    "+learning_rate=1e-3": "'learning_rate' train.lr",
    "lr=1e-3": "'lr' train.lr",
    "lora_r=8": "'lora_r' method.rank",
    "lora_alpha=16": "'lora_alpha' method.lora_alpha",
    "num_train_epochs=3": "'num_train_epochs' train.epochs",
    "per_device_train_batch_size=8": "'per_device_train_batch_size' train.batch_size",
    "train.weight_decay=0.1": "'weight_decay' method.optimizer.weight_decay method.lower.",
    "train.seed=3": "'seed' it is seed",
    "max_seq_length=128": "'max_seq_length' task.max_length",
    "output_dir=out": "'output_dir' hydra.run.dir",
    "model_name_or_path=bert-base-uncased": "'model_name_or_path' model.pretrained",
    "dataset=sst2": "'dataset' task.data_dir",
    "model.load_in_4bit=true": "'load_in_4bit' model.quantization",
    "train.bf16=true": "'bf16' engine.precision",
}
READ = {
    "method=autolora method.unroll_steps=200 train.epochs=1": "method.unroll_steps=200 100 passes",
    "method=bidora method.unroll_steps=5 train.epochs=1 method.split=0.5": "unroll_steps=5 passes",
    "train.warmup_steps=100000": "train.warmup_steps=100000 20 optimiser",
    "train.warmup_steps=4 train.max_steps=3": "train.warmup_steps=4 3 optimiser",
    "train.batch_size=65": "train.batch_size=65 64",
    "task.max_train=3": "train.batch_size=16 3",
    "task.data_dir=nowhere": "task.data_dir=nowhere folder",
    "task.text_columns=[txt]": "'txt' 'text', 'label'",
    "task.label_column=lable": "'lable' 'text', 'label'",
    "task.metrics=[pearson]": "task.metrics pearson",
    "method=bilora method.split=null": "method.split=null validation",
    "method=autolora method.split=0.9": "method.split=0.9 batch",
}
CASES = [*CONFIGURATION, *READ]


def words(line: str, folder: Path) -> list[str]:
    method = "" if "method=" in line or line.startswith("~method") else "method=lora "
    places = {"DATA": str(folder / "data"), "FILE": str(folder / "file")}
    # a value that is given twice counts once: what the case says
    given = shlex.split(f"{DATA} {method}")
    wrong = shlex.split(line)
    keys = {word.partition("=")[0] for word in wrong}
    given = [word for word in given if word.partition("=")[0] not in keys]
    found = [*given, *wrong]
    for name, place in places.items():
        found = [word.replace(f"={name}", f"={place}") for word in found]
    return found


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By command line: exit status, stderr, heavy libraries loaded, files left behind."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "data").mkdir()
    (folder / "file").write_text("")
    for split, count in (("train", 64), ("test", 32)):
        rows = [f"the film was number {i},{'pos' if i % 2 else 'neg'}" for i in range(count)]
        (folder / "data" / f"{split}.csv").write_text("\n".join(["text,label", *rows]))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([words(line, folder) for line in CASES]),
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": "", "HOME": str(folder)},
    )
    return dict(zip(CASES, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("line", CASES)
def test_one_sentence(line: str, answers: dict[str, Any]) -> None:
    status, errors, loaded, left = answers[line]
    assert status == 2, status
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1
    assert not left
    for part in {**CONFIGURATION, **READ}[line].split(" "):
        assert part in errors
    if line in CONFIGURATION:
        assert loaded == []
