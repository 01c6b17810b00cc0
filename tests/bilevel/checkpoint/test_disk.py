"""What a disk refuses is told in a sentence, whoever notices it; other errors are not touched."""

import errno
import os
import tempfile
from pathlib import Path

import pytest
from safetensors import SafetensorError

from bilevel.checkpoint.disk import check_writable, sync, told_when_full
from bilevel.errors import StorageError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "free some space"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only"),
        (OSError(errno.EACCES, "Permission denied"), "Permission denied"),
        (SafetensorError("Error while serializing: I/O error: full (os error 28)"), "free some"),
        (SafetensorError("Error while serializing: I/O error: no (os error 13)"), "Permission"),
    ],
)
def test_a_refusal_names_the_folder(error, reason, tmp_path):
    folder = tmp_path / "some" / "place"
    with (
        pytest.raises(StorageError, match=f"cannot write {folder}.*{reason}"),
        told_when_full(folder),
    ):
        raise error


def test_the_file_is_named_where_it_is_known(tmp_path):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "weights.bin")
    with pytest.raises(StorageError, match=r"cannot write weights\.bin"), told_when_full(tmp_path):
        raise error


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "adapter").touch()
    for folder in (tmp_path / "adapter", tmp_path / "adapter" / "inside"):
        with pytest.raises(StorageError, match="adapter"), told_when_full(folder):
            pytest.fail("nothing could have been written")


def test_a_folder_that_cannot_be(tmp_path, monkeypatch):
    """As below /proc, where even a parent that is made is not there."""

    def refuse(self, **options):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(self))

    monkeypatch.setattr(type(tmp_path), "mkdir", refuse)
    folder = tmp_path / "new"
    with pytest.raises(StorageError, match=r"cannot write .*new: No such"), told_when_full(folder):
        pytest.fail("nothing could have been written")


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "No such file"), SafetensorError("InvalidHeader")]
)
def test_other_errors_pass(error, tmp_path):
    with pytest.raises(type(error)) as caught, told_when_full(tmp_path):
        raise error
    assert caught.value is error


def test_a_folder_is_tried_and_nothing_left(tmp_path):
    for folder in (tmp_path, tmp_path / "new" / "run"):
        check_writable(folder, "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "new/run"])
def test_a_disk_that_takes_nothing(name, tmp_path, monkeypatch):
    """Whatever the permissions say, as of a disk that is mounted read-only."""

    def refuse(dir):
        raise OSError(errno.EROFS, "Read-only file system", str(dir))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(StorageError, match=f"out={tmp_path / name}: {tmp_path} .*Read-only"):
        check_writable(tmp_path / name, "out")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc")
@pytest.mark.parametrize("name", ["/proc", "/proc/new/run"])
def test_proc_takes_nothing(name):
    with pytest.raises(StorageError, match=f"out={name}: /proc cannot be written"):
        check_writable(Path(name), "out")


@pytest.mark.skipif(os.name != "posix", reason="only POSIX can open a folder")
def test_a_file_system_that_cannot_sync_folders_ends_nothing(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()

    def refuse(number):
        def fsync(handle):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fsync)

    for number in (errno.EINVAL, errno.ENOTSUP):
        refuse(number)
        sync(tmp_path)
        with pytest.raises(OSError, match=os.strerror(number)):
            sync(file)
    refuse(errno.EIO)
    for path in (tmp_path, file):
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            sync(path)
