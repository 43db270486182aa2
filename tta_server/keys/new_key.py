"""A new key, and how it comes into the file that a server reads."""

import fcntl
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE
from textwrap import indent
from typing import Any, Final

import yaml
from pydantic import ValidationError

from tta_server.keys.key import Key, digest_of
from tta_server.keys.keyring import keys_in
from tta_server.validation import explain

_PREFIX: Final = "tta_"  # so that scanners for secrets know one when they see it
_RANDOM_BYTES: Final = 32
_ENTRY: Final = re.compile(rb"^( *)- ", re.MULTILINE)


def new_key(path: Path | None, entry: dict[str, Any]) -> tuple[str, str]:
    """Make a key, and add it to the end of a file.

    What is in the file stays as it is, and so do its owner and its mode; a new one only its owner can read. A link is
    followed. Several may add to one file at the same time.

    Args:
        path: The file, which need not exist; None writes none.
        entry: The fields of the key, but for its digest.

    Returns:
        The key, which is kept nowhere; and the file's entry of it.

    Raises:
        ValueError: If a field is wrong, the name is taken, or the file cannot be read or written, or only by hand.
    """
    secret = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    try:
        key = Key.model_validate(entry | {"sha256": digest_of(secret)})
    except ValidationError as error:
        raise ValueError("\n".join(explain(problem) for problem in error.errors())) from error
    told = yaml.safe_dump([key.model_dump(mode="json", exclude_none=True)], sort_keys=False)
    if path is not None:
        try:
            _add(path, key, told)
        except (OSError, RuntimeError) as error:  # the latter, if links go in a circle
            said = getattr(error, "strerror", "") or error
            raise ValueError(f"keys file '{path}' cannot be written: {said}") from error
    return secret, told


def _add(path: Path, key: Key, told: str) -> None:
    file = path.resolve()
    with _alone_in(file.parent):
        before = file.read_bytes() if file.exists() else b""
        known = keys_in(before, path) if before.strip() else []
        if key.name in [each.name for each in known]:
            raise ValueError(f"keys file '{path}' has a key called '{key.name}' already")
        after = _added(before, told)
        if not _holds(after, [*known, key], path):
            raise ValueError(
                f"keys file '{path}' is written in a form that nothing can be added to; leave out --file, and add the "
                "entry that is then shown yourself"
            )
        _write(file, after)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Have one process at a time change the files of a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
        os.fsync(handle)  # so that the file survives a power cut under its name
    finally:
        os.close(handle)


def _added(before: bytes, told: str) -> bytes:
    """Return the text of a file with an entry more, as far in as the first one."""
    lines = before if before.strip() else before + b"keys:\n"
    first = _ENTRY.search(lines)
    shift = first.group(1).decode() if first else ""
    return lines + (b"" if lines.endswith(b"\n") else b"\n") + indent(told, shift).encode()


def _holds(text: bytes, keys: list[Key], path: Path) -> bool:
    try:
        return keys_in(text, path) == keys
    except ValueError:
        return False


def _write(file: Path, text: bytes) -> None:
    """Put a file in the place of another, whole or not at all."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # its owner alone can read it
    try:
        with os.fdopen(handle, "wb") as new:
            if file.exists():
                old = file.stat()
                os.fchown(handle, old.st_uid, old.st_gid)
                os.fchmod(handle, S_IMODE(old.st_mode))
            new.write(text)
            new.flush()
            os.fsync(handle)
        Path(name).replace(file)
    except OSError:
        Path(name).unlink()
        raise
