"""Somebody who makes tokens, and tells the public keys to check them by."""

import json
import time
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from jwt.algorithms import get_default_algorithms

AUDIENCE, ISSUER = "tta-server", "https://id.example"
MAKERS = {
    "EdDSA": Ed25519PrivateKey.generate,
    "ES256": lambda: generate_private_key(SECP256R1()),
    "RS256": lambda: generate_rsa(65537, 2048),
}


class Issuer:
    """One key pair, and the tokens that are signed with it."""

    def __init__(self, kid: str = "one", algorithm: str = "EdDSA") -> None:
        self.kid, self.algorithm = kid, algorithm
        self.private = MAKERS[algorithm]()

    def jwk(self, **changes: object) -> dict:
        """Return its public key as an entry of a JWKS."""
        told = get_default_algorithms()[self.algorithm].to_jwk(self.private.public_key(), as_dict=True)
        return told | {"kid": self.kid, "use": "sig"} | changes

    def claims(self, **changes: object) -> dict:
        """Return what a good token says; None leaves a claim out."""
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "cameras",
            "exp": time.time() + 3600,
            "scope": "openid infer",
            "tta_streams": ["gate-*"],
        } | changes
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, header: dict | None = None, **changes: object) -> str:
        """Return a good token, but for what is changed."""
        return jwt.encode(self.claims(**changes), self.private, self.algorithm, {"kid": self.kid} | (header or {}))


def write_jwks(path: Path, *issuers: Issuer) -> Path:
    """Write the public keys of issuers."""
    path.write_text(json.dumps({"keys": [each.jwk() for each in issuers]}))
    return path
