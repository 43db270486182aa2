"""All keys of a server, and the file that they are read from."""

import hmac
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml
from pydantic import ValidationError

from tta_server.errors import RateLimited, Unauthorized
from tta_server.keys.key import Key, digest_of
from tta_server.keys.rate import Rate
from tta_server.telemetry.log_format import fields
from tta_server.validation import explain

if TYPE_CHECKING:
    from tta_server.keys.tokens import Tokens  # an extra: imported when it is asked for

log = logging.getLogger(__name__)

_MOST_RATES: Final = 10_000


class Keyring:
    """Know keys by what is sent, and how fast each is used."""

    def __init__(self, keys: Sequence[Key], tokens: "Tokens | None" = None) -> None:
        """Take the keys, and what knows tokens, if any are taken."""
        self._keys = list(keys)
        self._rates: dict[tuple[str, float], Rate] = {}
        self.tokens = tokens

    def read_again(self, text: bytes, path: Path) -> None:
        """Know the keys that the text of a file holds and no others.

        One that has the same rate as before goes on with what is left of it.

        Raises:
            ValueError: If it cannot be used; the keys stay.
        """
        keys = keys_in(text, path)
        before, after = ({key.name: key for key in each} for each in (self._keys, keys))
        if before == after:
            return
        self._keys = keys
        changed = [name for name in after if name in before and after[name] != before[name]]
        new, gone = sorted(after.keys() - before.keys()), sorted(before.keys() - after.keys())
        log.info(
            "read the keys again: the file has changed",
            extra=fields(new=", ".join(new), changed=", ".join(changed), gone=", ".join(gone)),
        )

    def find(self, secret: str) -> Key:
        """Return the key that was sent, or what a token that was sent says.

        Raises:
            Unauthorized: If it is none; it says no more, whatever was sent.
        """
        is_token = secret.count(".") == 2  # keys have no dots
        found = self.tokens.find(secret) if self.tokens and is_token else self._known(secret)
        if found is None:
            raise Unauthorized("this is no key of this server; an operator makes one with 'tta-server keys new'")
        return found

    def _known(self, secret: str) -> Key | None:
        """Compare all keys, each in the same time, whatever was sent."""
        digest = digest_of(secret)
        found = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        return found[0] if found else None

    def take(self, key: Key, images: int, now_s: float) -> None:
        """Count images that a key has answered.

        Raises:
            RateLimited: If its rate is used up.
        """
        if key.images_per_s is None:
            return
        limit = (key.name, key.images_per_s)
        rate = self._rates.pop(limit, None) or Rate(key.images_per_s)
        self._rates[limit] = rate  # the one used last stands last
        if len(self._rates) > _MOST_RATES:
            del self._rates[next(iter(self._rates))]
        if wait_s := rate.take(images, now_s):
            raise RateLimited(
                f"key '{key.name}' may ask for {key.images_per_s:g} images a second; try again later", wait_s
            )


def read_keys(path: Path) -> list[Key]:
    """Return the keys in a file.

    Raises:
        ValueError: If it cannot be read, or holds no keys, or two of one name.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(f"keys file '{path}' cannot be read: {error}") from error
    return keys_in(text, path)


def keys_in(text: bytes, path: Path) -> list[Key]:
    """Return the keys that the text of a file holds.

    Raises:
        ValueError: If it holds none, or two of one name.
    """
    try:
        content = yaml.safe_load(text.decode())
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
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
