"""Settings for the whole suite, made before torch is imported."""

import gc
import os
import signal

# The models here are tiny: one thread is faster than two, and suites run side by side on two cores
# would otherwise spend their time waiting for one another's threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The suite never touches the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import torch

# What a shell starts with & ignores Ctrl-C, which tests of it send.
signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What is loaded by now stays: going through it again and again is a twelfth of the time."""
    gc.collect()
    gc.freeze()
