"""Count what FSDP2 gathers while a block runs: bytes received, and bytes held at once."""

from __future__ import annotations

import weakref

from torch.utils._python_dispatch import TorchDispatchMode


class Gathers(TorchDispatchMode):
    """What passes through ``all_gather`` inside the block, on this rank.

    Attributes:
        count: gathers.
        received: bytes that came from the other ranks.
        most: bytes of gathered weights, buffers included, that were there at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = self.received = self.most = 0
        self._buffers: list[weakref.ref] = []
        self._weights: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        name = str(function)
        if name.startswith("c10d._allgather_base_"):
            output, part = args[0], args[1]
            self.count += 1
            self.received += output.nbytes - part.nbytes
            self._buffers.append(weakref.ref(output))
            self._note()
        elif name.startswith("fsdp.split_with_sizes_copy"):
            for weight in (kwargs or {})["out"]:
                base = weight if weight._base is None else weight._base
                self._weights[id(base)] = weakref.ref(base)
            self._note()
        return found

    def _note(self) -> None:
        """Where bytes are added is where most of them may be there."""
        self._buffers = [r for r in self._buffers if r() is not None]
        alive = [r() for r in (*self._buffers, *self._weights.values())]
        storages = {t.untyped_storage()._cdata: t.untyped_storage() for t in alive if t is not None}
        self.most = max(self.most, sum(storage.nbytes() for storage in storages.values()))
