"""Reach the Hugging Face hub, or do without it.

The hub's own clients retry an unreachable hub for half a minute. One short request tells whether
to ask it at all; without it only the local cache is looked into.
"""

import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager, nullcontext
from typing import Any

import datasets
import huggingface_hub.constants

from bilevel.errors import UserError
from experiments.stored_data.spool import limit

__all__ = ["PARQUET", "cache_only", "load", "reachable", "rows"]

# The branch where the hub itself keeps a data set as Parquet; what was published as a script,
# which `datasets` no longer runs, is read from there.
PARQUET = "refs/convert/parquet"

TIMEOUT = 5.0  # seconds


def reachable() -> bool:
    """Tell whether the hub answers (False at once with HF_HUB_OFFLINE=1)."""
    if huggingface_hub.constants.is_offline_mode():
        return False
    request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        return True  # an answer, if not a friendly one
    except urllib.error.URLError as error:
        # A certificate that only Python's own client mistrusts: the hub is there.
        return isinstance(error.reason, ssl.SSLError)
    except OSError:
        return False
    return True


@contextmanager
def cache_only() -> Iterator[None]:
    """Keep `datasets` from asking the hub: what HF_HUB_OFFLINE=1 does before the import."""
    saved = (huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)
    huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = saved


def load(path: str, *config: str, revision: str | None = None, streaming: bool = False) -> Any:
    """A data set of the hub, or of the local cache when the hub cannot be reached: split -> rows.

    Args:
        path: its id.
        *config: its configuration, where it has several.
        revision: a branch, tag or commit; None for the main branch.
        streaming: download rows when they are read, and keep none of them.

    Raises:
        UserError: it is in neither; the message asks for ``task.data_dir``.
    """
    online = reachable()
    options: dict[str, Any] = {} if revision is None else {"revision": revision}
    if streaming:
        options["streaming"] = True
    name = " ".join([path, *config])
    try:
        with nullcontext() if online else cache_only():
            return datasets.load_dataset(path, *config, **options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (
            f"the hub does not give {name} ({error})"
            if online
            else f"the hub cannot be reached and {name} is not in its cache"
        )
        raise UserError(f"{reason}: give a folder with its files, task.data_dir=DIR") from error


def rows(split: Any) -> Sequence[Any]:
    """The rows of a split: a list, or where they are too many for it the data set, memory-mapped.

    Args:
        split: of what :func:`load` returns.
    """
    most = limit()
    sized = isinstance(split, Sized)  # else it was loaded to be streamed
    if most is None or not sized or len(split) <= most:
        return list(split)
    found: Sequence[Any] = split
    return found
