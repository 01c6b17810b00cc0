"""Methods, one file each: the Betty problems of a paper and the stages that join them.

The names are those of ``__init__.pyi``; each loads its module when it is used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
