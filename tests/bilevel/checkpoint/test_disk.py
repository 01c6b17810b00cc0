"""A full disk is told in a sentence, whoever notices it; other errors are not touched."""

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from bilevel import UserError
from bilevel.checkpoint.disk import told_when_full

FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", FULL)
def test_a_full_disk_names_the_folder(error):
    with (
        pytest.raises(UserError, match=r"no space left on the disk .* to some/place"),
        told_when_full(Path("some/place")),
    ):
        raise error


@pytest.mark.parametrize(
    "error", [OSError(errno.EACCES, "Permission denied"), SafetensorError("InvalidHeader")]
)
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as caught, told_when_full(Path("some/place")):
        raise error
    assert caught.value is error
