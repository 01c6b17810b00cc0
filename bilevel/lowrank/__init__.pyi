"""Gates, penalties, rank rules, and the way to plain LoRA."""

from .adapter_state import adapter_state as adapter_state
from .adapter_state import put_adapter_state as put_adapter_state
from .attach import Factors as Factors
from .attach import GatedLayer as GatedLayer
from .attach import attach_gates as attach_gates
from .attach import fold_gates as fold_gates
from .attach import gated_layers as gated_layers
from .export import ExportReport as ExportReport
from .export import export_adapter as export_adapter
from .fused import built_of_conv1d as built_of_conv1d
from .fused import join_split as join_split
from .fused import split_fused as split_fused
from .gate_kinds import GateKind as GateKind
from .gates import Gates as Gates
from .layers import component_costs as component_costs
from .layers import lora_factors as lora_factors
from .layers import lora_layers as lora_layers
from .layers import lora_pattern as lora_pattern
from .layers import lora_scales as lora_scales
from .merging import merge as merge
from .ranks import RULES as RULES
from .rebuild import plain_lora as plain_lora
from .regularizers import density as density
from .regularizers import entropy as entropy
from .regularizers import expected_l0 as expected_l0
from .regularizers import orthogonality as orthogonality
