"""Tell how far the ranks agree that runs found which differ in their seed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.metrics.agreement import ALL, Agreement, agreement
from experiments.results.cells import markdown_cell, markdown_table

__all__ = ["RankAgreement", "agreement_of_ranks"]

UNDEFINED = "undefined"
SAME_SIZE = 1.1  # the largest adapter over the smallest, up to which their ranks compare well

Result = Mapping[str, Any]


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


def agreement_of_ranks(results: Sequence[Result]) -> RankAgreement:
    """How far the ranks of runs agree that differ in their seed alone.

    Args:
        results: result.json of each run, with its ``variant``. Runs without ranks are passed over;
            of several with one seed the first counts, since a run agrees with its like for nothing.
    """
    groups: dict[tuple[str, ...], dict[int, Result]] = {}
    for r in results:
        if r["ranks"]:
            key = (r["method"], r.get("variant", ""), r["task"], r["model"])
            groups.setdefault(key, {}).setdefault(r["seed"], r)
    groups = {key: seeds for key, seeds in sorted(groups.items()) if len(seeds) > 1}
    found = {key: agreement([r["ranks"] for r in seeds.values()]) for key, seeds in groups.items()}
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


def _name(key: tuple[str, ...]) -> str:
    method, variant, task, model = map(markdown_cell, key)
    return f"{f'{method} {variant}'.strip()} on {task}, {model}"


def _sentence(key: tuple[str, ...], seeds: Mapping[int, Result], over: Agreement) -> str:
    """How far all modules agree; empty where that is undefined."""
    if over.spearman is None or over.kendall is None:
        return ""
    text = (
        f"The ranks of {_name(key)} agree between the seeds {', '.join(map(str, sorted(seeds)))} "
        f"by {over.spearman:.2f} (Spearman; Kendall {over.kendall:.2f}; 1 is the same order of the "
        "modules, 0 none)."
    )
    sizes = [r["adapter_parameters"] for r in seeds.values()]
    if max(sizes) > SAME_SIZE * min(sizes):
        text += (
            f" Their adapters differ in size, {_range(sizes)} parameters: only ranks of about the "
            "same size compare well."
        )
    return text


def _table(
    groups: Mapping[tuple[str, ...], Mapping[int, Result]],
    found: Mapping[tuple[str, ...], Mapping[str, Agreement]],
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
