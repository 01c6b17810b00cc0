"""A linear map on the frozen model's embeddings, which every fine-tuning should beat."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
