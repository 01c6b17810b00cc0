"""Export a finished run's adapter again, or merge it into its base model; send it to the hub.

    python -m experiments.export run=DIR [out=DIR] [merge=true]
    python -m experiments.export run=DIR hub=USER/NAME [merge=true] [private=true] [dry_run=true]

Writes ``adapter`` and ``adapter_compact`` into ``out`` (default: DIR/export). With ``merge=true``
it writes a plain transformers model in fp32 to ``out/merged`` instead, reads it back, and prints
the largest difference of its logits to the adapter's, over test examples; where rounding cannot
explain it, nothing is left behind and the status is not zero. Where the run's data are not here
the logits are compared over made-up texts. For runs that end in LoRA; DoRA merges by PEFT's own
``merge_and_unload()``. A linear probe of what the model's own head is given
(``method.pooling=head``, tags) has ``merge=true`` too.

With ``hub=USER/NAME`` what the run has saved is sent to the hub as it lies, with its card, or with
``merge=true`` the merged model, ``out/merged``, which is made first where it is not there yet.
``dry_run=true`` says which files would be sent, and asks nothing of the network.
"""

from __future__ import annotations

import logging
import random
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevel import lowrank
from bilevel.checkpoint.disk import told_when_full
from bilevel.checkpoint.sums import CARD
from bilevel.errors import UserError, printable
from bilevel.reading import read_text
from bilevel.settings import Settings
from experiments.artefacts.hub_push import Push
from experiments.cli.command_line import CommandLine
from experiments.cli.messages import sentence
from experiments.cli.own_options import own_options
from experiments.cli.program import program
from experiments.cli.quiet import quiet
from experiments.results import record
from experiments.results.finished_run import SavedRun

if TYPE_CHECKING:
    from experiments.answers import Answers
    from experiments.artefacts.artefact import Artefact
    from experiments.models.pretrained import LoadedModel
    from experiments.tasks.task import TaskData

__all__ = ["ExportOptions", "main"]

log = logging.getLogger(__name__)

GROUPS = ("task", "model", "seed")  # of the configuration, that have a say here

MERGED = "merged"
# Test examples that a merged model is compared on.
COMPARED = 128
BATCH = 32
WORDS = 16  # of a text that is made up where there are none


@dataclass(frozen=True)
class ExportOptions(Settings):
    """What this program is told besides the run, its configuration, the folder and the hub."""

    merge: bool = False
    """Write a plain transformers model in the place of adapters."""
    private: bool = False
    """On the hub, only its owner may see it."""
    dry_run: bool = False
    """Say what would be sent, and send nothing."""


@program(lambda: str(__doc__))
def main(words: list[str]) -> None:
    """The program."""
    line = CommandLine.of_one(words)
    options, own, overrides = own_options(
        ExportOptions, line.overrides, GROUPS, "run", "out", "hub"
    )
    push = None if own["hub"] is None else Push(own["hub"], options.private)
    if push is None and (options.private or options.dry_run):
        raise UserError("private= and dry_run= go with hub=USER/NAME")
    run = SavedRun.open(own["run"], line, overrides)
    out = Path(own["out"] or run.folder / "export")
    given = any(word.lstrip("+").startswith(("task=", "task.")) for word in overrides)
    if push is not None:
        _push(run, push, out, options, given)
        return
    _refuse_other_forms(run, options.merge)
    if not options.merge and own["out"] is not None:
        _refuse_adapters(run, out)
    quiet()
    if options.merge:
        _merge(run, out, given)
    else:
        _export(run, out, given)


def _push(run: SavedRun, push: Push, out: Path, options: ExportOptions, given: bool) -> None:
    """Send what the run has saved, or its merged model; or say what would be sent."""
    if not options.dry_run:
        push.token()  # told before the work
    folder = record.saved_folder(run.result, run.folder)
    if options.merge:
        _refuse_other_forms(run, options.merge)
        folder = out / MERGED
        if not folder.exists():
            quiet()
            _merge(run, out, given)
    elif (run.folder / record.BASE).is_dir():
        raise UserError(
            f"run={run.folder}: its adapter belongs to weights of its own, base/, which the hub "
            "does not have: send the merged model, merge=true"
        )
    if not (folder / CARD).is_file():
        raise UserError(
            f"{folder} has no card, {CARD}: it is of before; export it, and send what that writes "
            "by huggingface_hub, or send the merged model, merge=true"
        )
    named = re.search("^base_model:", read_text(folder / CARD), re.MULTILINE)
    if (folder / "adapter_config.json").is_file() and not named:
        log.warning(
            "the base model is not on the hub: who takes the adapter needs it from you; "
            "merge=true sends a model that needs none"
        )
    if options.dry_run:
        print(printable(push.told(folder)))
        return
    title = f"{run.result['method']} on {run.result['task']}"
    print(printable(push.send(folder, f"Add {' '.join(title.split())}")))


def _refuse_adapters(run: SavedRun, out: Path) -> None:
    """Keep away from adapters that may be all that is left of another training."""
    from bilevel.lowrank.export import COMPACT

    if out.resolve() == (run.folder / "export").resolve():
        return
    for name in (COMPACT, "adapter"):
        if (out / name).exists():
            raise UserError(
                f"{out / name} is there already: give another folder by out=DIR, or remove it"
            )


def _refuse_other_forms(run: SavedRun, merge: bool) -> None:
    from bilevel.lowrank.export import COMPACT

    stored = run.config.model.get("quantization")
    if merge and stored is not None:
        raise UserError(
            f"run={run.folder}: its base model in {stored} cannot take in what was trained without "
            "loss: model.quantization=null merges it into the base as it was before that"
        )
    probe = run.result.get("probe")
    if probe is not None and merge and probe["pooling"] == "head":
        return
    if probe is not None:
        raise UserError(
            f"run={run.folder}: a linear probe has one form, which lies in "
            f"{run.result['adapter_dir']}; merge=true makes a transformers model of one that was "
            f"trained with method.pooling=head (this one: {probe['pooling']})"
        )
    if not (run.folder / COMPACT).is_dir():
        raise UserError(
            f"run={run.folder}: {run.result['method']} leaves no LoRA adapter to export or merge; "
            f"what it left is in {run.result['adapter_dir']}"
        )


def _export(run: SavedRun, out: Path, given: bool) -> None:
    """Both layouts again, out of the compact one: true ranks, as they were trained.

    Args:
        run: which.
        out: where to.
        given: data are named, which must suit the run; else they are not needed.
    """
    # here: what is wrong with the words is told without it
    from bilevel.checkpoint.sums import seal
    from bilevel.lowrank.adapter_files import load_adapter
    from bilevel.lowrank.export import COMPACT

    task = run.task() if given else run.to_predict()
    loaded = run.base(task)
    model = load_adapter(loaded.model, run.folder / COMPACT)
    report = lowrank.export_adapter(model, out)
    folders = (report.adapter, report.compact)
    artefact = _artefact(run, task, loaded, run.spec().dtype)
    artefact.complete(folders)
    for folder in folders:
        seal(folder)
    artefact.card(folders, run.result, interval=_interval(run))
    print(f"{report.adapter}\n{report.compact}")
    # As the run counted them: the zeros that fill up a fused projection's B are no parameters.
    adapter = run.result["adapter_parameters"]
    print(f"{adapter:,} adapter and {report.head_parameters:,} head parameters")


def _merge(run: SavedRun, out: Path, given: bool) -> None:
    folder = out / MERGED
    if folder.exists():
        raise UserError(f"{folder} is there already: give another folder by out=DIR, or remove it")
    task = _data(run, given)
    loaded = run.base(task)
    rows = [row for test in task.tests.values() for row in test][:COMPARED]
    if rows:
        examples = loaded.tokenise(task, rows)
        collate = task.collator(loaded.tokenizer)
        batches = [collate(examples[i : i + BATCH]) for i in range(0, len(examples), BATCH)]
        over = f"{len(rows)} test examples"
    else:
        batches = [_made_up(loaded, task.answers)]
        over = f"{BATCH} made-up texts"
    if run.result.get("probe") is None:
        merged, difference = lowrank.merge(run.folder / "adapter", loaded.model, batches)
    else:
        merged, difference = _with_probe(run.folder / "adapter", loaded.model, batches)
    partial = out / "merged.partial"
    artefact = _artefact(run, task, loaded, "float32")
    try:
        with told_when_full(partial):
            merged.save_pretrained(partial)
        artefact.complete([partial])
        difference = max(difference, _reading_back(merged, partial, batches))
        artefact.card([partial], run.result, shown=[folder], interval=_interval(run))
        partial.rename(folder)
    finally:  # nothing half-written, and nothing that does what it should not
        shutil.rmtree(partial, ignore_errors=True)
    print(folder)
    if not rows:
        print("not compared on test examples: the data are not here")
    print(f"largest logit difference over {over}: {difference:.3g}")


def _data(run: SavedRun, given: bool) -> TaskData:
    """The run's data; without examples where they cannot be had and none are given now."""
    try:
        return run.task()
    except UserError as error:
        if given:
            raise
        print(printable(f"compared on made-up texts: {sentence(error)}"), file=sys.stderr)
        return run.to_predict()


def _made_up(loaded: LoadedModel, answers: Answers) -> dict[str, Any]:
    """A batch of texts of random words of the tokenizer."""
    from experiments.answers import CHOICES
    from experiments.models.vocabulary import size

    tokenizer, draw = loaded.tokenizer, random.Random(0)
    known = range(min(len(tokenizer), size(loaded.model) or len(tokenizer)))
    special = set(tokenizer.all_special_ids)
    words = [i for i in known if i not in special]
    offered = len(answers.names or ()) if answers.kind == CHOICES else 1
    texts = [tokenizer.decode(draw.choices(words, k=WORDS)) for _ in range(BATCH * offered)]
    limit = min(WORDS, tokenizer.model_max_length)
    options: dict[str, Any] = {"truncation": True, "max_length": limit, "padding": True}
    batch = dict(tokenizer(texts, **options, return_tensors="pt"))
    if answers.kind == CHOICES:
        batch = {key: tensor.view(BATCH, offered, -1) for key, tensor in batch.items()}
    if loaded.seq2seq:
        batch["labels"] = batch["input_ids"]
    return batch


def _artefact(run: SavedRun, task: TaskData, loaded: LoadedModel, dtype: str) -> Artefact:
    from experiments.artefacts.artefact import Artefact

    base = run.spec().reference()
    return Artefact.of(
        *(task, task.answers, loaded.tokenizer, loaded.model.config, base, dtype),
        loaded.head_replaced,
        pairs=None if any(task.tests.values()) else run.task_options().reads_pairs(),
    )


def _interval(run: SavedRun) -> tuple[float, float] | None:
    from experiments.comparing.score_interval import score_interval

    return score_interval(run.folder, run.result)


def _with_probe(folder: Path, base: Any, batches: list[Any]) -> tuple[Any, float]:
    """The model with the probe in its head, and the largest difference of its logits."""
    from bilevel.lowrank.merging import check_difference, largest_difference, logits
    from problems.linear_probe import load_probe

    probed = load_probe(base.float(), folder)
    expected = [logits(probed, batch) for batch in batches]
    merged = probed.merged().eval()
    difference = largest_difference([logits(merged, batch) for batch in batches], expected)
    check_difference(difference, expected, "putting the probe into the head")
    return merged, difference


def _reading_back(model: Any, folder: Path, batches: list[Any]) -> float:
    """The largest difference between a model's logits and those of its files."""
    import torch

    from bilevel.lowrank.merging import check_difference, largest_difference, logits

    expected = [logits(model, batch) for batch in batches]
    again = type(model).from_pretrained(folder, dtype=torch.float32).eval()
    difference = largest_difference([logits(again, batch) for batch in batches], expected)
    check_difference(difference, expected, "writing and reading back")
    return difference


if __name__ == "__main__":
    main()
