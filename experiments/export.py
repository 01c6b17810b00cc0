"""Export a finished run's adapter again, or merge it into its base model.

    python -m experiments.export run=DIR [out=DIR] [merge=true]

Writes ``adapter`` and ``adapter_compact`` into ``out`` (default: DIR/export). With ``merge=true``
it writes a plain transformers model in fp32 to ``out/merged`` instead, and prints the largest
difference of its logits to the adapter's, over test examples. For runs that end in LoRA; DoRA
merges by PEFT's own ``merge_and_unload()``.
"""

from __future__ import annotations

from pathlib import Path

from bilevel import lowrank
from bilevel.errors import UserError
from experiments.cli.command_line import CommandLine
from experiments.cli.program import program
from experiments.cli.quiet import quiet
from experiments.results.finished_run import SavedRun, take

__all__ = ["main"]

# Test examples that a merged model is compared on.
COMPARED = 128
BATCH = 32


@program(lambda: str(__doc__))
def main(words: list[str]) -> None:
    """The program."""
    line = CommandLine.parse(words)
    own, overrides = take(line.overrides, run=None, out=None, merge="false")
    if own["merge"] not in ("true", "false"):
        raise UserError(f"merge={own['merge']}: this must be true or false")
    run = SavedRun.open(own["run"], line, overrides)
    _refuse_other_forms(run)
    quiet()
    out = Path(own["out"] or run.folder / "export")
    if own["merge"] == "true":
        _merge(run, out)
    else:
        _export(run, out)


def _refuse_other_forms(run: SavedRun) -> None:
    from bilevel.lowrank.export import COMPACT

    if not (run.folder / COMPACT).is_dir():
        raise UserError(
            f"run={run.folder}: {run.result['method']} leaves no LoRA adapter to export or merge; "
            f"what it left is in {run.result['adapter_dir']}"
        )


def _export(run: SavedRun, out: Path) -> None:
    """Both layouts again, out of the compact one: true ranks, as they were trained."""
    from peft import PeftModel  # here: what is wrong with the words is told without it

    from bilevel.lowrank.export import COMPACT
    from experiments.results import saved_model

    task = run.task()
    model = PeftModel.from_pretrained(run.base(task).model, str(run.folder / COMPACT))
    report = lowrank.export_adapter(model, out)
    saved_model.name_labels(task.answers, (report.adapter, report.compact))
    print(f"{report.adapter}\n{report.compact}")
    # As the run counted them: the zeros that fill up a fused projection's B are no parameters.
    adapter = run.result["adapter_parameters"]
    print(f"{adapter:,} adapter and {report.head_parameters:,} head parameters")


def _merge(run: SavedRun, out: Path) -> None:
    task = run.task()
    loaded = run.base(task)
    rows = [row for test in task.tests.values() for row in test][:COMPARED]
    examples = task.tokenise(loaded.tokenizer, rows, loaded.seq2seq)
    collate = task.collator(loaded.tokenizer)
    batches = [collate(examples[i : i + BATCH]) for i in range(0, len(examples), BATCH)]
    merged, difference = lowrank.merge(run.folder / "adapter", loaded.model, batches)
    merged.save_pretrained(out / "merged")
    loaded.tokenizer.save_pretrained(out / "merged")
    print(out / "merged")
    print(f"largest logit difference over {len(examples)} test examples: {difference:.3g}")


if __name__ == "__main__":
    main()
