"""Bilevel optimisation engine on Betty, with hypergradients that are right.

The names are those of ``__init__.pyi``; a name loads its module when it is used.
"""

import importlib.util

import lazy_loader

if importlib.util.find_spec("betty") is None:
    raise ImportError(
        "Betty is missing; its wheel claims Python < 3.11, so install it by itself: "
        "pip install --no-deps --ignore-requires-python betty-ml==0.2.1"
    )

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
