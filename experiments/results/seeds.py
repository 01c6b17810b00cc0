"""Tell how far the ranks agree that runs found which differ in their seed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.metrics.agreement import ALL, Agreement, agreement
from experiments.plots.records import Record
from experiments.results.cells import markdown_cell, markdown_table
from experiments.results.one_size import cut_to_one_size

__all__ = ["RankAgreement", "agreement_of_ranks"]

UNDEFINED = "undefined"
SAME_SIZE = 1.1  # the largest adapter over the smallest, up to which their ranks compare well

Result = Mapping[str, Any]
Run = tuple[Sequence[Record], Result]
Key = tuple[str, ...]  # method, variant, task, model


class RankAgreement(NamedTuple):
    """How far ranks agree between seeds, in Markdown.

    Attributes:
        sentences: one for each method, variant, task and model with two seeds; none without any.
        table: of all of them, a row a kind of module; empty where nothing in it is defined, since
            no ranks vary (plain LoRA).
    """

    sentences: list[str]
    table: str

    @property
    def markdown(self) -> str:
        """All of it."""
        return "\n\n".join(filter(None, [*self.sentences, self.table]))


def agreement_of_ranks(results: Sequence[Result], runs: Sequence[Run] = ()) -> RankAgreement:
    """How far the ranks of runs agree that differ in their seed alone.

    Where ranks are of different sizes, or the same in every module, what is left of them at one
    number of parameters is compared too, if the runs have recorded their singular values.

    Args:
        results: result.json of each run, with its ``variant``. Runs without ranks are passed over;
            of several with one seed the first counts, since a run agrees with its like for nothing.
        runs: those of them with lines of metrics.jsonl, as ``experiments.figures`` reads them.
    """
    records = {result["folder"]: lines for lines, result in runs}
    groups: dict[Key, dict[int, Result]] = {}
    for r in results:
        if r["ranks"]:
            key: Key = (r["method"], r.get("variant", ""), r["task"], r["model"])
            groups.setdefault(key, {}).setdefault(r["seed"], r)
    groups = {key: seeds for key, seeds in sorted(groups.items()) if len(seeds) > 1}
    found: dict[Key, Mapping[str, Agreement]] = {}
    for key, seeds in list(groups.items()):
        found[key] = agreement([r["ranks"] for r in seeds.values()])
        if found[key][ALL].defined and _same_size(seeds):
            continue
        cut = _cut(key, seeds, records)
        if cut is not None:
            groups[cut[0]] = cut[1]
            found[cut[0]] = agreement([r["ranks"] for r in cut[1].values()])
    groups = dict(sorted(groups.items()))
    said = [_sentence(key, groups[key], found[key][ALL]) for key in groups]
    said = [text for text in said if text]
    same = [_name(key) for key in groups if not found[key][ALL].defined]
    if same:
        said.append(
            f"How far the ranks of {'; '.join(same)} agree between seeds is {UNDEFINED}: in no two "
            "seeds do they vary over the modules."
        )
    varies = any(over[ALL].defined for over in found.values())
    return RankAgreement(said, _table(groups, found) if varies else "")


def _cut(
    key: Key, seeds: Mapping[int, Result], records: Mapping[str, Sequence[Record]]
) -> tuple[Key, dict[int, Result]] | None:
    """The same runs cut to one size, under a name that says so; None where that is not known."""
    found = cut_to_one_size([(records.get(r.get("folder", ""), ()), r) for r in seeds.values()])
    if found is None:
        return None
    size, ranks = found
    method, variant, *data = key
    said = f"{variant} cut to {size:,} parameters".strip()
    cut: dict[int, Result] = {
        seed: {**result, "ranks": mine, "adapter_parameters": size}
        for (seed, result), mine in zip(seeds.items(), ranks, strict=True)
    }
    return (method, said, *data), cut


def _same_size(seeds: Mapping[int, Result]) -> bool:
    sizes = [r["adapter_parameters"] for r in seeds.values()]
    return bool(max(sizes) <= SAME_SIZE * min(sizes))


def _name(key: Key) -> str:
    method, variant, task, model = map(markdown_cell, key)
    return f"{f'{method} {variant}'.strip()} on {task}, {model}"


def _sentence(key: Key, seeds: Mapping[int, Result], over: Agreement) -> str:
    """How far all modules agree; empty where that is undefined."""
    if over.spearman is None or over.kendall is None:
        return ""
    text = (
        f"The ranks of {_name(key)} agree between the seeds {', '.join(map(str, sorted(seeds)))} "
        f"by {over.spearman:.2f} (Spearman; Kendall {over.kendall:.2f}; 1 is the same order of the "
        "modules, 0 none)."
    )
    if not _same_size(seeds):
        sizes = [r["adapter_parameters"] for r in seeds.values()]
        text += (
            f" Their adapters differ in size, {_range(sizes)} parameters: only ranks of about the "
            "same size compare well."
        )
    return text


def _table(
    groups: Mapping[Key, Mapping[int, Result]],
    found: Mapping[Key, Mapping[str, Agreement]],
) -> str:
    head = ["method", "variant", "task", "model", "seeds", "ranks of", "modules"]
    head += ["mean_rank", "parameters", "Spearman", "Kendall"]
    lines = [head]
    for key, seeds in groups.items():
        first = [*map(markdown_cell, key), str(len(seeds))]
        parameters = _range([r["adapter_parameters"] for r in seeds.values()])
        kinds = found[key]
        for kind, over in kinds.items():
            # One kind alone, or ranks of which nothing varies: the row of all says it.
            if kind != ALL and (len(kinds) == 2 or not kinds[ALL].defined):
                continue
            lines.append(
                [
                    *(*first, markdown_cell(kind), str(over.modules), _range(over.mean_ranks)),
                    parameters if kind == ALL else "",
                    *(_correlation(over, value) for value in (over.spearman, over.kendall)),
                ]
            )
    if not any(key[1] for key in groups):
        lines = [line[:1] + line[2:] for line in lines]
    return markdown_table(lines)


def _range(values: Sequence[float]) -> str:
    shown = [f"{v:,}" if isinstance(v, int) else f"{v:.2f}" for v in (min(values), max(values))]
    return " to ".join(dict.fromkeys(shown))


def _correlation(over: Agreement, value: float | None) -> str:
    if value is None:
        return UNDEFINED
    some = "" if over.defined == over.pairs else f" ({over.defined} of {over.pairs} pairs)"
    return f"{value:.2f}{some}"
