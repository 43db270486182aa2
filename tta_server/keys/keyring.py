"""All keys of a server, and the file that they are in."""

import hmac
import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tta_server.errors import RateLimited, Unauthorized
from tta_server.keys.key import Key, digest_of
from tta_server.keys.rate import Rate
from tta_server.validation import explain

_PREFIX = "tta_"  # so that scanners for secrets know one when they see it
_RANDOM_BYTES = 32


class Keyring:
    """Know keys by what is sent, and how fast each is used."""

    def __init__(self, keys: Sequence[Key]) -> None:
        """Take the keys."""
        self._keys = list(keys)
        self._rates = {key.name: Rate(key.images_per_s) for key in keys if key.images_per_s is not None}

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
        rate = self._rates.get(key.name)
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
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"keys file '{path}' cannot be read: {' '.join(str(error).split())}") from error
    entries = content.get("keys") if isinstance(content, dict) and set(content) == {"keys"} else None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"keys file '{path}' must be a mapping 'keys' with a list; 'tta-server keys new' writes it")
    keys = [_key(path, place, entry) for place, entry in enumerate(entries, 1)]
    names = [key.name for key in keys]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise ValueError(f"keys file '{path}' has two keys called '{twice}'")
    return keys


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
