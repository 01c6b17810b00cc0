"""SaLoRA on one level, as published, and its gates on D_val (ours)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
