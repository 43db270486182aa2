"""What cannot be read now is not taken for what is not there: an error that may pass is told."""

import errno
import os
from collections.abc import Callable

import pytest

from tta_server.storage.store import Store


def failing(monkeypatch, store: Store, error: Exception) -> None:
    """Have every state of version 2 fail to be read."""
    read = store.files.read

    def reads(path: str) -> bytes:
        if "-v2-" in path:
            raise error
        return read(path)

    monkeypatch.setattr(store.files, "read", reads)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
def test_an_error_that_may_pass_gives_no_older_state(local, monkeypatch, number):
    for version in (1, 2):
        local.save("camera", version, b"%d" % version)
    failing(monkeypatch, local, OSError(number, os.strerror(number)))

    with pytest.raises(OSError, match=os.strerror(number)):
        local.load("camera")
    monkeypatch.undo()
    assert local.load("camera") == b"2"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOENT])
def test_a_bad_sector_and_a_file_that_has_gone_are_passed_over(local, monkeypatch, number):
    for version in (1, 2):
        local.save("camera", version, b"%d" % version)
    failing(monkeypatch, local, OSError(number, os.strerror(number)))

    assert local.load("camera") == b"1"


class RemoteError(Exception):
    """As botocore's: no OSError."""


ASKED: dict[str, Callable[[Store], object]] = {
    "read": lambda store: store.files.read("streams/camera/x"),
    "write": lambda store: store.files.write("streams/camera/x", b"x"),
    "create": lambda store: store.files.create("streams/camera/x", b"x"),
    "append": lambda store: store.files.append_lines("audit/x", b"x"),
    "remove": lambda store: store.files.remove("streams/camera/x"),
    "list": lambda store: store.files.listing("streams"),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("error", [RemoteError("cannot connect"), OSError(errno.EIO, "cannot connect")])
def test_whatever_a_remote_store_raises_is_an_error_that_may_pass(monkeypatch, asked, error):
    store = Store("memory://bucket/unreadable")

    def fails(*_args: object, **_keys: object) -> None:
        raise error

    for name in ("cat_file", "pipe_file", "ls", "rm_file", "isdir", "makedirs"):
        monkeypatch.setattr(store.files._filesystem, name, fails)

    with pytest.raises(OSError, match="cannot connect") as caught:
        ASKED[asked](store)
    assert caught.value.errno is None
