"""Scores of generated text against human references, by name: :data:`TEXT_METRICS`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
