"""Run methods on tasks, from the command line or from Python.

The names are those of ``__init__.pyi``; a name loads its module when it is used.
"""

import logging
import os
import sys

import lazy_loader

# Before torch is imported. OpenMP's threads otherwise spin while they wait, and two programs on the
# same cores then spend most of their time on that: a small model trained beside another job took
# sixteen times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# PEFT imports bitsandbytes wherever it is installed, and that advises on faster kernels each time.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

if sys.argv[:1] == ["-m"]:  # python -m experiments.PROGRAM: what it imports takes a while
    from experiments.cli import early

    early.end_on_interrupt()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
