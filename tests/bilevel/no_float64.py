"""Stand in for a device without float64: tell of every tensor that is made in it there."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from bilevel import precision

DEVICE = torch.device("cpu:0")  # the stand-in; what is asked for on "cpu", or nowhere, is the host


class _Leaves(TorchFunctionMode):
    """Remember what ``.cpu()`` gives, as a tensor of its own, which on a CPU it would not be."""

    def __init__(self, host: WeakTensorKeyDictionary) -> None:
        super().__init__()
        self.host = host

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is torch.Tensor.cpu:
            found = found.clone()
            self.host[found] = True
        return found


class _Casts(TorchDispatchMode):
    """Remember the operations that make float64 of what is on the device, or make it there."""

    def __init__(self, host: WeakTensorKeyDictionary, made: list[str]) -> None:
        super().__init__()
        self.host = host
        self.made = made

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        given = [a for a in args if isinstance(a, Tensor)]
        wide = isinstance(found, Tensor) and found.dtype == torch.float64
        if any(a in self.host for a in given) and isinstance(found, Tensor):
            self.host[found] = True
        elif (
            wide
            and (given or kwargs.get("device") == DEVICE)
            and not any(a.dtype == torch.float64 for a in given)
        ):
            self.made.append(f"{func} in {_place()}")
        return found


def _place() -> str:
    """The innermost line of the project's own packages."""
    frames = traceback.extract_stack()
    own = [f for f in frames if "/tests/" not in f.filename and "site-packages" not in f.filename]
    return f"{own[-1].filename}:{own[-1].lineno}"


@contextmanager
def told(monkeypatch: pytest.MonkeyPatch, without: bool = True) -> Iterator[list[str]]:
    """What makes float64 on the device, in the order in which it does.

    Args:
        monkeypatch: of the test.
        without: the program takes the device for one without float64; else it does not know.
    """
    made: list[str] = []
    host = WeakTensorKeyDictionary()
    with monkeypatch.context() as patch:
        if without:
            patch.setattr(precision, "has_float64", lambda device: False)
        with _Leaves(host), _Casts(host, made):
            yield made
