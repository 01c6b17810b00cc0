"""Zero-shot style transfer by an instruction-tuned model: ``python -m experiments.style_transfer``."""
