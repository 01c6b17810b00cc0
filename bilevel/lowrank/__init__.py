"""Gates on low-rank adapters: values, penalties, ranks, and export to plain LoRA."""

from bilevel.lowrank.export import ExportReport, export_adapter
from bilevel.lowrank.fused import built_of_conv1d, join_split, split_fused
from bilevel.lowrank.gates import GatedLayer, Gates, attach_gates, fold_gates, gated_layers
from bilevel.lowrank.layers import component_costs, lora_layers, lora_pattern, lora_scales
from bilevel.lowrank.merge import merge
from bilevel.lowrank.ranks import RULES
from bilevel.lowrank.rebuild import plain_lora
from bilevel.lowrank.regularizers import density, entropy, expected_l0, orthogonality

__all__ = [
    "RULES",
    "ExportReport",
    "GatedLayer",
    "Gates",
    "attach_gates",
    "built_of_conv1d",
    "component_costs",
    "density",
    "entropy",
    "expected_l0",
    "export_adapter",
    "fold_gates",
    "gated_layers",
    "join_split",
    "lora_layers",
    "lora_pattern",
    "lora_scales",
    "merge",
    "orthogonality",
    "plain_lora",
    "split_fused",
]
