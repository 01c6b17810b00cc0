"""Pretrained models: found, loaded with a head, and fitted to the memory there is."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
