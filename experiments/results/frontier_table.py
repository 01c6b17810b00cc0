"""Print a frontier: loss against parameters, a line a point, and what was chosen."""

from __future__ import annotations

from bilevel.cutting import Frontier

__all__ = ["frontier_table"]


def frontier_table(frontier: Frontier, told: int | None = None) -> str:
    """The lines of the table and, below it, the choice or why there is none.

    Args:
        frontier: of an adapter.
        told: components that stay because somebody said so; None where the frontier chooses.
    """
    whole = frontier.points[-1]
    kept = next((p for p in frontier.points if p.components == told), None)
    lines = ["  components  parameters     loss   difference to the whole"]
    lines += [
        f"  {p.components:>10}  {p.parameters:>10,}  {p.loss:7.4f}   "
        f"{p.difference:+.4f} +- {p.error:.4f}{'   chosen' * (p is frontier.choice)}"
        f"{'   kept, as told' * (p is kept)}"
        for p in frontier.points
    ]
    lines += [
        f"  rank {rank} everywhere, {p.parameters:,}: {p.difference:+.4f} +- {p.error:.4f}"
        for rank, p in frontier.even.items()
    ]
    if frontier.nothing_learned is not None:
        so = "so no ranks are chosen" if kept is None else "so what is kept was told, not chosen"
        lines.append(f"{frontier.nothing_learned}, {so}")
    elif (chosen := frontier.choice) is not None:
        lines.append(
            f"{'chosen' if kept is None else 'the frontier alone would choose'}: "
            f"{chosen.components} of {whole.components} components, "
            f"{chosen.parameters:,} parameters ({chosen.parameters / whole.parameters:.1%}), the "
            f"fewest that lose no more than {frontier.delta:.4f} (delta), with errors="
            f"{frontier.errors:g} standard errors to spare"
        )
        if frontier.from_constant:
            lines.append(
                f"delta is a share of what was learned beyond the best constant answer (loss "
                f"{frontier.constant:.4f}), which is better than this model without its adapter"
            )
        if (smaller := frontier.passed_over) is not None:
            lines.append(
                f"{smaller.components} components pass too, but a larger part does not: taken for "
                "luck, and not chosen"
            )
        if frontier.doubt is not None:
            lines.append(frontier.doubt)
    return "\n".join(lines)
