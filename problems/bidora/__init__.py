"""BiDoRA: DoRA's direction at the lower level, its magnitude at the upper."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
