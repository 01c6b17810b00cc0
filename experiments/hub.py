"""The Hugging Face hub, and doing without it.

The hub's own clients retry an unreachable hub for half a minute. One short request tells whether
to ask it at all; without it only the local cache is looked into.
"""

import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import huggingface_hub.constants

__all__ = ["cache_only", "reachable"]

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
