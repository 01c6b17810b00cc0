"""Methods, one file each: the Betty problems of a paper and the stages that join them."""

from problems.autolora import AutoLoRA as AutoLoRA
from problems.base import Job as Job
from problems.base import Method as Method
from problems.base import Outcome as Outcome
from problems.base import StageRunner as StageRunner
from problems.base import TrainData as TrainData
from problems.base import TrainSettings as TrainSettings
from problems.lora import LoRA as LoRA
from problems.optimizers import OptimizerSettings as OptimizerSettings
