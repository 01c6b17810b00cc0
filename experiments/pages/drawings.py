"""Draw the figures of a page, each with what it shows in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from experiments.pages.vector import Figure, inline

__all__ = ["drawn"]

# The beginning of a figure's name -> what it shows; docs/results.md says more.
CAPTIONS = {
    "losses_compared": "Means over seeds; whiskers are one standard deviation at the end.",
    "losses": "Thin: the training loss of single batches. The gap is that of the final model.",
    "scores": "On engine.evaluate_examples examples of each split, so it may differ by a digit.",
    "gates": "A line a component of the module's update; blue ones were kept.",
    "values": "What each component ended with; a black line marks the rank.",
    "residuals": "Each point is a test example; on the line the prediction is right.",
    "cosine_compared": "How far each matrix was moved from its pretrained value.",
    "cosine": "How far each matrix was moved from its pretrained value.",
    "frontier": "The loss of parts of the adapter on held-out examples, against their size.",
    "pareto": "A better score with fewer parameters; the line joins what nothing beats in both.",
    "comparison": "Points are seeds, diamonds their mean, bars one standard deviation.",
    "planted": "Found against planted ranks; on the line they are equal.",
    "source_weights": "The weight of an example of each source of the training data.",
}


def drawn(drawings: Mapping[str, Callable[[Path], object]], title: str) -> list[Figure]:
    """The figures that there is something to draw of, in the order given.

    Args:
        drawings: name -> what writes the file that it is given, or returns False.
        title: what they are of, for those who do not see them.
    """
    found = []
    for name, draw in drawings.items():
        words = name.replace("_", " ")
        figure = inline(name, f"Figure: {words} of {title}", draw, _caption(name))
        if figure is not None:
            found.append(figure)
    return found


def _caption(name: str) -> str:
    return next((text for begin, text in CAPTIONS.items() if name.startswith(begin)), "")
