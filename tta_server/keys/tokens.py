"""JSON Web Tokens beside API keys: whoever makes them is trusted, and nobody is asked.

Source: RFC 7519; what is refused follows RFC 8725, section 3.
"""

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import ValidationError

from tta_server.keys.key import SCOPES, Key, digest_of
from tta_server.telemetry.log_format import fields
from tta_server.validation import explain

ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
"""How tokens may be signed: by a private key that this server does not have."""

LEEWAY_S: Final = 10.0
"""How far the clock of whoever makes tokens may be from this server's."""

log = logging.getLogger(__name__)

_CLAIMS: Final = {"name": "sub", "streams": "tta_streams", "models": "tta_models", "images_per_s": "tta_images_per_s"}
_TIMES: Final = ("exp", "nbf", "iat")
_LEAST_RSA_BITS = 2048
_KINDS = ("RSA", None), ("EC", "P-256"), ("OKP", "Ed25519"), ("oct", None)  # the last is refused, others are left out
_MOST_KEPT, _MOST_CHARACTERS = 1000, 8192
_ANY_NAME = ""  # a key without a `kid` is for tokens that name no other
_NOT_USABLE = (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, RecursionError, OverflowError)


class TokenKey(NamedTuple):
    """A public key, and the one algorithm that it is used with, whatever a token says."""

    algorithm: str
    public: RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


class Tokens:
    """Know who sent a token, and what it is for."""

    def __init__(self, keys: Mapping[str, TokenKey], audience: str, issuer: str) -> None:
        """Take what tokens are checked by.

        Args:
            keys: By the name that tokens give them.
            audience: What the claim `aud` must hold.
            issuer: What the claim `iss` must be.
        """
        self._keys = keys
        self._audience = audience
        self._issuer = issuer
        self._kept: dict[str, tuple[Key, float]] = {}

    def find(self, token: str) -> Key | None:
        """Return what a token may be used for; None if it is not valid, for a reason that only the log says.

        What was found is kept until the token expires: to check a signature takes half as long as a whole request.
        """
        if len(token) > _MOST_CHARACTERS:  # before anybody looks into it
            log.debug("a token was refused: it has %d characters", len(token))
            return None
        kept = self._kept  # before the keys: what is found by old ones must not be kept beside new ones
        digest = digest_of(token)
        key, until_s = kept.get(digest, (None, 0.0))
        if key is not None and time.time() < until_s:
            return key
        try:
            claims = self._claims(token)
            key, ends_s = _key(claims, digest), int(claims["exp"]) + LEEWAY_S
        except _NOT_USABLE as error:
            log.debug("a token was refused: %s", error)
            return None
        kept[digest] = key, ends_s
        if len(kept) > _MOST_KEPT:
            del kept[next(iter(kept))]
        return key

    def read_again(self, text: bytes, path: Path) -> None:
        """Know the keys that the text of a file holds and no others.

        Raises:
            ValueError: If it cannot be used; the keys stay.
        """
        keys = token_keys_in(text, path)
        if keys != self._keys:
            self._keys = keys
            self._kept = {}
            log.info("read the keys of tokens again: the file has changed", extra=fields(keys=", ".join(sorted(keys))))

    def _claims(self, token: str) -> dict[str, Any]:
        """Return what a token says.

        Raises:
            PyJWTError: If it is not valid now, not for this server, or not signed by a key that is known.
        """
        named = jwt.get_unverified_header(token).get("kid", _ANY_NAME)
        key = self._keys.get(named) or self._keys.get(_ANY_NAME)
        if key is None:
            raise jwt.InvalidKeyError(f"no key is called {named[:80]!r}")
        claims: dict[str, Any] = jwt.decode(
            token,
            key.public,
            algorithms=[key.algorithm],
            audience=self._audience,
            issuer=self._issuer,
            leeway=LEEWAY_S,
            options={"require": ["exp", "aud", "iss", "sub"]},
        )
        if odd := [name for name in _TIMES if name in claims and type(claims[name]) not in (int, float)]:
            raise jwt.InvalidTokenError(f"{odd[0]} is no number")  # PyJWT takes texts and `true` for one
        return claims


def read_token_keys(path: Path) -> dict[str, TokenKey]:
    """Return the keys in a file by their names.

    Raises:
        ValueError: If it cannot be read, or holds no keys to check tokens by.
    """
    try:
        return token_keys_in(path.read_bytes(), path)
    except OSError as error:
        raise ValueError(f"keys of tokens '{path}' cannot be read: {error.strerror or error}") from error


def token_keys_in(text: bytes, path: Path) -> dict[str, TokenKey]:
    """Return the keys that the text of a file holds, a JWKS or one public key as PEM, by their names.

    Keys of a JWKS that are for encryption, for other algorithms or of another kind are left out.

    Raises:
        ValueError: If it holds anything else, two keys of one name, or none to check tokens by.
    """
    whose = f"keys of tokens '{path}'"
    try:
        named = _named(text)
    except (KeyError, AttributeError, *_NOT_USABLE) as error:
        raise ValueError(f"{whose} are neither a JWKS nor a public key as PEM") from error
    if not named:
        raise ValueError(f"{whose} are all for something else, expected one for {', '.join(ALGORITHMS)}")
    keys = {name: TokenKey(_algorithm(public, whose), public) for name, public in named}
    if len(keys) < len(named):
        raise ValueError(f"{whose} have one name, expected a 'kid' of its own for each")
    return keys


def _named(content: bytes) -> list[tuple[str, Any]]:
    """Return names and keys, of whatever kind they are."""
    if not content.lstrip().startswith(b"{"):
        return [(_ANY_NAME, load_pem_public_key(content))]
    entries = json.loads(content)["keys"]
    fit = [each for each in entries if each.get("use", "sig") == "sig" and each.get("alg", "RS256") in ALGORITHMS]
    fit = [each for each in fit if (each.get("kty"), each.get("crv")) in _KINDS]
    return [(str(each.get("kid", _ANY_NAME)), jwt.PyJWK(each).key) for each in fit]


def _algorithm(public: object, whose: str) -> str:
    """Return the algorithm of a key, which no token chooses.

    Raises:
        ValueError: If it is not public, too short, or of another kind.
    """
    if isinstance(public, RSAPublicKey) and public.key_size >= _LEAST_RSA_BITS:
        return "RS256"
    if isinstance(public, EllipticCurvePublicKey) and isinstance(public.curve, SECP256R1):
        return "ES256"
    if isinstance(public, Ed25519PublicKey):
        return "EdDSA"
    raise ValueError(
        f"{whose} hold one that is not public, or of another kind; expected public keys of RSA "
        f"({_LEAST_RSA_BITS} bits or more), P-256 or Ed25519"
    )


def _key(claims: Mapping[str, Any], digest: str) -> Key:
    """Return what the claims of a token say, in the words of the file of keys.

    Raises:
        ValueError: If they say nothing that this server knows.
    """
    entry = {field: claims[claim] for field, claim in _CLAIMS.items() if claim in claims}
    said = claims.get("scope")
    scopes = [word for word in said.split(" ") if word in SCOPES] if isinstance(said, str) else []
    try:
        return Key.model_validate(entry | {"scopes": scopes, "sha256": digest})
    except ValidationError as error:
        raise ValueError(explain(error.errors(include_input=False)[0] | {"input": "what is there"})) from error
