r"""No fine-tuning: the pretrained model is scored as it is. What every method is to beat.

    python -m experiments.run method=pretrained task=xsum task.data_dir=DIR task.train_split=null

It needs no training data, and a task of written text can do without (``task.train_split=null``);
where there is some, its loss is reported too. A head that the model does not bring is random: then
the scores are those of guessing. The model is saved whole, as it came, so that what is scored is
what lies on the disk, as with every other method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from problems.common import Job, Method, Outcome, Stage

__all__ = ["Pretrained"]


@dataclass(frozen=True)
class Pretrained(Method):
    """Train nothing."""

    name: ClassVar[str] = "pretrained"
    takes_targets: ClassVar[bool] = False

    def check_size(self, examples: int, batch_size: int) -> None:
        """Any size will do."""

    def stages(self) -> Sequence[Stage]:
        """One stage without training."""
        return (Stage("pretrained", self.prepare),)

    def prepare(self, job: Job, found: None) -> Outcome:
        """The model as it is built."""
        return Outcome(
            job.build_model(),
            ranks=None,
            trainable_parameters=0,
            split={"train": len(job.data.examples)},
        )
