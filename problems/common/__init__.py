"""What methods are built of: their kinds, their settings, their problems, what they are handed.

The names are those of ``__init__.pyi``; each loads its module when it is used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
