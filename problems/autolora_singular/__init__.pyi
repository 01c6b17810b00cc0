"""AutoLoRA in the singular basis: one selection over the components of all layers (ours)."""

from .method import AutoLoRASingular as AutoLoRASingular
