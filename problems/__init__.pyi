"""The methods, and what a method of your own is made of."""

from .adalora import AdaLoRA as AdaLoRA
from .adapters.method import BottleneckAdapters as BottleneckAdapters
from .autolora import AutoLoRA as AutoLoRA
from .bidora import BiDoRA as BiDoRA
from .bilora import BiLoRA as BiLoRA
from .bitfit import BitFit as BitFit
from .common.method import Job as Job
from .common.method import Method as Method
from .common.method import Outcome as Outcome
from .common.method import StageRunner as StageRunner
from .common.method import TrainData as TrainData
from .common.method import TrainSettings as TrainSettings
from .common.optimizer_settings import OptimizerSettings as OptimizerSettings
from .delta_lora.method import DeltaLoRA as DeltaLoRA
from .dora import DoRA as DoRA
from .dylora import DyLoRA as DyLoRA
from .full import FullFineTuning as FullFineTuning
from .ia3 import IA3 as IA3
from .lora import LoRA as LoRA
from .prefix import PrefixTuning as PrefixTuning
from .prompt import PromptTuning as PromptTuning
from .salora.bilevel import SaLoRABilevel as SaLoRABilevel
from .salora.one_level import SaLoRA as SaLoRA
