"""All keys of a server, and the file that they are in."""

import asyncio
import hmac
import logging
import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from tta_server.errors import RateLimited, Unauthorized
from tta_server.keys.key import Key, digest_of
from tta_server.keys.rate import Rate
from tta_server.telemetry.log_format import fields
from tta_server.validation import explain

LOOK_EVERY_S: Final = 2.0
"""How often a server looks whether its file of keys has changed."""

log = logging.getLogger(__name__)

_PREFIX = "tta_"  # so that scanners for secrets know one when they see it
_RANDOM_BYTES = 32


class Keyring:
    """Know keys by what is sent, and how fast each is used."""

    def __init__(self, keys: Sequence[Key]) -> None:
        """Take the keys."""
        self._rates: dict[tuple[str, float], Rate] = {}
        self.replace(keys)

    @property
    def keys(self) -> Sequence[Key]:
        """The keys that are known."""
        return self._keys

    def replace(self, keys: Sequence[Key]) -> None:
        """Know these keys and no others; one that had the same rate before goes on with what is left of it."""
        limits = [(key.name, key.images_per_s) for key in keys if key.images_per_s is not None]
        self._rates = {limit: self._rates.get(limit) or Rate(limit[1]) for limit in limits}
        self._keys = list(keys)

    def find(self, secret: str) -> Key:
        """Return the key that was sent; all are compared, each in the same time, whatever was sent.

        Raises:
            Unauthorized: If it is none.
        """
        digest = digest_of(secret)
        found = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not found:
            raise Unauthorized("this is no key of this server; an operator makes one with 'tta-server keys new'")
        return found[0]

    def take(self, key: Key, images: int, now_s: float) -> None:
        """Count images that a key has answered.

        Raises:
            RateLimited: If its rate is used up.
        """
        rate = self._rates.get((key.name, key.images_per_s)) if key.images_per_s is not None else None
        wait_s = rate.take(images, now_s) if rate else 0
        if wait_s:
            raise RateLimited(
                f"key '{key.name}' may ask for {key.images_per_s:g} images a second; try again later", wait_s
            )


def read_keys(path: Path) -> list[Key]:
    """Return the keys in a file.

    Raises:
        ValueError: If it cannot be read, or holds no keys, or two of one name.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"keys file '{path}' cannot be read: {' '.join(str(error).split())}") from error
    entries = content.get("keys") if isinstance(content, dict) and set(content) == {"keys"} else None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"keys file '{path}' must be a mapping 'keys' with a list; 'tta-server keys new' writes it")
    keys = [_key(path, place, entry) for place, entry in enumerate(entries, 1)]
    names = [key.name for key in keys]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise ValueError(f"keys file '{path}' has two keys called '{twice}'")
    return keys


async def follow(path: Path, keyring: Keyring, look_every_s: float = LOOK_EVERY_S) -> None:
    """Have a keyring hold what a file holds, until this is cancelled; while the file is wrong, the keys stay.

    Contents are compared, not times: a mounted Secret changes by a link that points elsewhere.
    """
    seen: bytes | None = None
    while True:
        found = await asyncio.to_thread(_content, path)
        if found != seen:
            seen = found
            await asyncio.to_thread(_renew, path, keyring)
        await asyncio.sleep(look_every_s)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # reading it for its keys says why


def _renew(path: Path, keyring: Keyring) -> None:
    try:
        keys = read_keys(path)
    except ValueError as error:
        log.error("%s; the keys read before stay in force", error)
        return
    before, after = ({key.name: key for key in each} for each in (keyring.keys, keys))
    if before == after:
        return
    keyring.replace(keys)
    changed = [name for name in after if name in before and after[name] != before[name]]
    new, gone = sorted(after.keys() - before.keys()), sorted(before.keys() - after.keys())
    log.info(
        "read the keys again: the file has changed",
        extra=fields(new=", ".join(new), changed=", ".join(changed), gone=", ".join(gone)),
    )


def _key(path: Path, place: int, entry: object) -> Key:
    try:
        return Key.model_validate(entry)
    except ValidationError as error:
        problem = explain(error.errors(include_input=False)[0] | {"input": "what is there"})
        raise ValueError(f"keys file '{path}', key {place}: {problem}") from error


def new_key(path: Path | None, entry: dict[str, Any]) -> tuple[str, str]:
    """Make a key, and add it to a file that only its owner can read.

    Args:
        path: The file, which need not exist; None writes none.
        entry: The fields of the key, but for its digest.

    Returns:
        The key, which is kept nowhere; and the file's entry of it.

    Raises:
        ValueError: If a field is wrong, the name is taken, or the file cannot be read or written.
    """
    secret = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    try:
        key = Key.model_validate(entry | {"sha256": digest_of(secret)})
    except ValidationError as error:
        raise ValueError("\n".join(explain(problem) for problem in error.errors())) from error
    told = key.model_dump(mode="json", exclude_none=True)
    if path is not None:
        known = read_keys(path) if path.exists() else []
        if key.name in [each.name for each in known]:
            raise ValueError(f"keys file '{path}' has a key called '{key.name}' already")
        _write(path, [each.model_dump(mode="json", exclude_none=True) for each in known] + [told])
    return secret, yaml.safe_dump([told], sort_keys=False)


def _write(path: Path, entries: list[dict[str, Any]]) -> None:
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # its owner alone can read it
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            yaml.safe_dump({"keys": entries}, file, sort_keys=False)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError as error:
        raise ValueError(f"keys file '{path}' cannot be written: {error.strerror or error}") from error
