"""Methods, one file each: the Betty problems of a paper and the stages that join them."""

from problems.adalora import AdaLoRA as AdaLoRA
from problems.adapters.method import BottleneckAdapters as BottleneckAdapters
from problems.autolora import AutoLoRA as AutoLoRA
from problems.bidora import BiDoRA as BiDoRA
from problems.bilora import BiLoRA as BiLoRA
from problems.bitfit import BitFit as BitFit
from problems.common.method import Job as Job
from problems.common.method import Method as Method
from problems.common.method import Outcome as Outcome
from problems.common.method import StageRunner as StageRunner
from problems.common.method import TrainData as TrainData
from problems.common.method import TrainSettings as TrainSettings
from problems.common.optimizer_settings import OptimizerSettings as OptimizerSettings
from problems.delta_lora.method import DeltaLoRA as DeltaLoRA
from problems.dora import DoRA as DoRA
from problems.dylora import DyLoRA as DyLoRA
from problems.full import FullFineTuning as FullFineTuning
from problems.ia3 import IA3 as IA3
from problems.lora import LoRA as LoRA
from problems.prefix import PrefixTuning as PrefixTuning
from problems.prompt import PromptTuning as PromptTuning
from problems.salora.bilevel import SaLoRABilevel as SaLoRABilevel
from problems.salora.one_level import SaLoRA as SaLoRA
