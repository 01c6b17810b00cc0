r"""Tell wrong labels by a model's probabilities for examples it was not trained on.

Confident learning (Northcutt, Jiang, Chuang, JAIR 70, 2021, sections 3.1 and 3.2), written out here
as cleanlab, which is theirs, brings more packages than the rule has lines. With p_i(k) held-out
probabilities and y_i the given classes,

    t_k = mean of p_i(k) over the i with y_i = k
    i counts as class k where k is the most probable of those with p_i(k) >= t_k; as none without.

The examples that count as another class than they are given make up the off-diagonal part of the
confident joint: their number is the paper's estimate of how many labels are wrong, which counts
too many where models are weak (by a third to four fifths at an accuracy of 0.76 with 10 to 20 %
wrong). Each is ranked by

    max over k != y_i of (p_i(k) - t_k)   -   (p_i(y_i) - t_{y_i}),

the margin of class-calibrated probabilities. (Ranking by 1 - p_i(y_i) alone would be the held-out
loss by another name.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Confident", "confident"]


@dataclass(frozen=True)
class Confident:
    """What the rule says of m items.

    Attributes:
        thresholds: t_k, (classes,); infinite where no item is given class k.
        margins: (m,), the larger the likelier the given class is wrong.
        counted: (m,), the class that each counts as; -1 for none.
        joint: (classes, classes), how many given class j count as class k.
    """

    thresholds: np.ndarray
    margins: np.ndarray
    counted: np.ndarray
    joint: np.ndarray


def confident(probabilities: np.ndarray, given: np.ndarray) -> Confident:
    """The rule of the module's docstring.

    Args:
        probabilities: (m, classes), of models that were not trained on the item.
        given: (m,), class numbers.
    """
    classes = probabilities.shape[1]
    own = np.arange(classes) == given[:, None]
    thresholds = np.array(
        [probabilities[own[:, k], k].mean() if own[:, k].any() else np.inf for k in range(classes)]
    )
    above = np.where(probabilities >= thresholds, probabilities, -np.inf)
    counted = np.where(np.isfinite(above.max(1)), above.argmax(1), -1)
    joint = np.zeros((classes, classes), dtype=int)
    np.add.at(joint, (given[counted >= 0], counted[counted >= 0]), 1)
    calibrated = probabilities - thresholds
    others = np.where(own, -np.inf, calibrated).max(1)
    # Where all are given one class, no other has a threshold, and nothing speaks against any.
    margins = np.where(np.isfinite(others), others - calibrated[np.arange(len(given)), given], 0.0)
    return Confident(thresholds, margins, counted, joint)
