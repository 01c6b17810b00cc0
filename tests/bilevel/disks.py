"""A disk that fills up."""

import errno
import os

from bilevel.checkpoint import state_file


class FullDisk:
    """A file on which only ``room`` bytes fit."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, content):
        self.room -= len(content)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(content)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *details):
        self.file.close()


def fill_disk(monkeypatch, room):
    def opened(*arguments):
        return FullDisk(open(*arguments), room)

    monkeypatch.setattr(state_file, "open", opened, raising=False)
