"""The files that a server's keys are in: read at the start, and again when they change."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tta_server.keys.keyring import Keyring, read_keys
from tta_server.settings_door import AuthSettings

if TYPE_CHECKING:
    from tta_server.keys.tokens import Tokens  # an extra: imported when it is asked for

LOOK_EVERY_S: Final = 2.0
"""How often a server looks whether a file of its keys has changed; two looks in a row must find the same."""

log = logging.getLogger(__name__)


def open_keyring(settings: AuthSettings) -> Keyring | None:
    """Return the keys that a server takes; None if it asks for none.

    Raises:
        ValueError: If a file cannot be used, or tokens are to be taken and PyJWT is not installed.
    """
    if not settings.asks_for_keys:
        return None
    return Keyring(read_keys(settings.keys_file) if settings.keys_file else [], _tokens(settings))


def _tokens(settings: AuthSettings) -> "Tokens | None":
    if settings.jwt_keys_file is None:
        return None
    try:
        from tta_server.keys.tokens import Tokens, read_token_keys
    except ImportError as error:
        raise ValueError("auth.jwt_keys_file needs PyJWT and cryptography; install tta-server[jwt]") from error
    return Tokens(read_token_keys(settings.jwt_keys_file), settings.jwt_audience, settings.jwt_issuer)


async def follow(settings: AuthSettings, keyring: Keyring, look_every_s: float = LOOK_EVERY_S) -> None:
    """Have a keyring hold what the files hold, until this is cancelled; while one is wrong, its keys stay."""
    followed = []
    if settings.keys_file:
        followed.append(_follow(settings.keys_file, keyring.read_again, look_every_s))
    if settings.jwt_keys_file and keyring.tokens:
        followed.append(_follow(settings.jwt_keys_file, keyring.tokens.read_again, look_every_s))
    await asyncio.gather(*followed)


async def _follow(path: Path, read_again: Callable[[bytes, Path], None], look_every_s: float) -> None:
    """Contents are compared, not times: a mounted Secret changes by a link that points elsewhere.

    They count once two looks have found the same: a file that is half written may be one of keys that may do more.
    """
    used: bytes | str | None = None
    before: bytes | str | None = None
    while True:
        found = await asyncio.to_thread(_content, path)
        if found == before and found != used:
            used = found
            await asyncio.to_thread(_renew, found, path, read_again)
        before = found
        await asyncio.sleep(look_every_s)


def _content(path: Path) -> bytes | str:
    """Return what is in a file, or why it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        return error.strerror or str(error)


def _renew(found: bytes | str, path: Path, read_again: Callable[[bytes, Path], None]) -> None:
    try:
        if isinstance(found, str):
            raise ValueError(f"keys file '{path}' cannot be read: {found}")
        read_again(found, path)
    except ValueError as error:
        log.error("%s; the keys read before stay in force", error)
