"""Cut a trained low-rank adapter: order its components, find how few lose nothing.

The names are those of ``__init__.pyi``; a name loads its module when it is used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
