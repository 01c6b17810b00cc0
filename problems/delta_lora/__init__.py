"""Delta-LoRA: the base weight follows the delta of the low-rank product."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
