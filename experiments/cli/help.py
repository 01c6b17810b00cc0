"""Explain the command line: a front page, and a page for each group of options.

The front page has what people use; everything else is printed from the classes that hold it, so
there is nothing here to fall behind.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bilevel.errors import UserError, listed, nearest
from bilevel.settings import Option, options
from experiments.cli.command_line import CommandLine
from experiments.config.composition import compose_config, hydra_app
from experiments.config.instantiate import locate, user_modules
from experiments.config.kinds import KINDS
from experiments.config.schema import CHOSEN, ELSEWHERE, GROUPS, SECTIONS, root_defaults

__all__ = ["text"]

WIDTH = 100
PROGRAM = "python -m experiments.run"

FRONT = f"""\
Fine-tune a transformer with a low-rank method, on one level or on two, and export a PEFT adapter.

  {PROGRAM} [GROUP=NAME | KEY=VALUE ...]

The ten options that people use
  method=autolora           which method               method=lora
  task=demo                 which data and score       task=sst2  (yours: task=classification)
  model=demo                which pretrained model     model=minilm  (any: model.pretrained)
  model.pretrained=ID       a hub id or a folder       model=hub model.pretrained=bert-base-uncased
  task.data_dir=DIR         local files, not the hub   task.data_dir=data/sst2
  task.text_columns=[NAME]  columns of your own files  task.text_columns=[review]
  task.max_train=N          fewer examples             task.max_train=2000
  train.epochs=5            passes over the data       train.epochs=3
  train.lr=RATE             learning rate              train.lr=5e-4
  seed=0                    split, order, dropout      -m seed=0,1,2

Examples
  {PROGRAM}
      AutoLoRA on the built-in demo task with the built-in tiny model: no network, two minutes
  {PROGRAM} method=autolora task=sst2 task.data_dir=DIR task.max_train=2000 model=minilm
      DIR holds train.parquet and validation.parquet (or csv, tsv, jsonl)
  {PROGRAM} -m method=lora,autolora seed=0,1,2 hydra/launcher=joblib hydra.launcher.n_jobs=2
      six runs, two at a time, and one table at the end
"""

AFTER = """\
All options, with defaults, allowed values and what they mean
  --help method=autolora          of an option of a group; --help method lists the group's options
  --help train                    likewise engine and run (run.resume=DIR continues a run)
  --cfg job                       the whole configuration as it stands, and stop
  --hydra-help                    Hydra's own flags

Where things go
  outputs/METHOD/TASK/TIME_SEED/  result.json, metrics.jsonl, predictions.jsonl, adapter/,
                                  adapter_compact/, figures/, checkpoints/, run.log
  multirun/TIME/                  one such folder a run, and report.html, summary.md, summary.csv

Other programs
  python -m experiments.evaluate  score a saved adapter again:   run=DIR [task.data_dir=DIR]
  python -m experiments.predict   answers for rows of your own:  run=DIR data=FILE out=FILE
  python -m experiments.export    export, merge, send to a hub:  run=DIR [merge=true] [hub=USER/ID]
  python -m experiments.figures   draw a run's figures again:    DIR
  python -m experiments.ranks     the part that is needed:       run=DIR | adapter=DIR model=...
  python -m experiments.report    methods compared, and a page:  DIR [DIR ...] [against=METHOD]
  python -m experiments.suspects  labels that may be wrong:      run=DIR [apply=drop]
  python -m experiments.score_text                              scores of generated text, in files
  python -m experiments.style_transfer                           zero-shot style transfer by a run
  python -m experiments.check_hypergradient                      estimators against the exact value
  python -m experiments.reproduce tables and figures of the papers: table=list
  python -m experiments.console   all of them, installed as the command bilevel-finetune
  HYDRA_FULL_ERROR=1 shows tracebacks instead of sentences."""


def text(line: CommandLine) -> str:
    """What ``--help`` prints, with the words beside it.

    Args:
        line: ``GROUP``, ``GROUP=NAME`` and ``KEY=VALUE`` words; without one the front page.

    Raises:
        UserError: a word names no group.
    """
    wanted = [word for word in line.overrides if word.partition("=")[0] in CHOSEN]
    # options of a run may stand beside it, those of any group
    keys = [word.partition("=")[0] for word in line.overrides if not word.startswith(("+", "~"))]
    known = (*root_defaults(), *CHOSEN, "experiment", "hydra")
    unknown = [key for key in keys if re.split(r"[./@]", key)[0] not in known]
    if unknown:
        raise UserError(
            f"--help {unknown[0]}: there is no such group of options; allowed are {listed(CHOSEN)}"
            f"{nearest(unknown[0], CHOSEN)}"
        )
    if not wanted:
        return f"{FRONT}\n{_groups(line)}\n{AFTER}"
    return "\n\n".join(_page(word, line) for word in wanted)


def _groups(line: CommandLine) -> str:
    """The names of every group's options."""
    rows = ["Choose one option of each group"]
    for group in GROUPS:
        names = listed(_names(group, line))
        rows.append(
            textwrap.fill(
                names, WIDTH, initial_indent=f"  {f'{group}=':16}", subsequent_indent=" " * 18
            )
        )
    return "\n".join(rows) + "\n"


def _names(group: str, line: CommandLine) -> list[str]:
    with hydra_app(line.config_dir) as app:
        return app.config_loader.get_group_options(group)


def _page(word: str, line: CommandLine) -> str:
    group, _, name = word.partition("=")
    if group in SECTIONS:
        hidden = ELSEWHERE.get(group, ())
        section = SECTIONS[group]
        found = [option for option in options(section) if option.name not in hidden]
        return _options(f"{group}: {_first_line(section)}", group, found)
    if not name:
        lines = [f"{group}=NAME, one of"]
        lines += [
            textwrap.fill(
                f"{name:22} {_summary(group, name, line)}",
                WIDTH,
                initial_indent="  ",
                subsequent_indent=" " * 25,
            )
            for name in _names(group, line)
        ]
        return "\n".join([*lines, f"--help {group}=NAME prints the options of one."])
    others = [other for other in line.overrides if other.partition("=")[0] != group]
    config = compose_config([*(other for other in others if "=" in other), word], line.config_dir)
    node: Any = OmegaConf.to_container(config[group], resolve=False)
    path = node.pop("_target_")
    modules = user_modules([] if line.config_dir is None else [line.config_dir])
    target: type[Any] = locate(path, group, KINDS[group], modules)
    values: Mapping[str, Any] = {key: value for key, value in node.items() if key != "_target_"}
    return _options(f"{word} ({path}): {_first_line(target)}", group, options(target, values))


def _options(title: str, group: str, found: Iterable[Option]) -> str:
    """Name, default, allowed values and meaning of each option."""
    rows: list[str] = [title]
    for option in found:
        equals = f"={option.default}" if option.default else ""
        rows.append(f"  {f'{group}.{option.name}{equals}':<34} {option.allowed}")
        if option.meaning:
            rows += textwrap.wrap(
                option.meaning.replace("``", ""),
                WIDTH,
                initial_indent=" " * 6,
                subsequent_indent=" " * 6,
            )
    return "\n".join(rows)


def _first_line(target: Any) -> str:
    return (target.__doc__ or "").strip().split("\n")[0]


def _summary(group: str, name: str, line: CommandLine) -> str:
    """What the file of an option says of it first, besides the command."""
    places = [resources.files("conf"), *([Path(line.config_dir)] if line.config_dir else [])]
    files = [place.joinpath(group, f"{name}.yaml") for place in places]
    rows = next(file.read_text("utf-8") for file in files if file.is_file()).splitlines()
    comments = [row.lstrip("# ") for row in rows if row.startswith("#") and "@package" not in row]
    words = " ".join(row for row in comments if not row.startswith("python -m"))
    return re.split(r"(?<=[a-z)]{2}\.) ", words)[0]  # the first sentence
