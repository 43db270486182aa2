"""Tokens: which are good, and for what; every other one is refused alike."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm

from tests.pages import block
from tests.tta_server.issuer import AUDIENCE, ISSUER, MAKERS, Issuer, write_jwks
from tta_server.errors import RateLimited, Unauthorized
from tta_server.keys.files import follow, open_keyring
from tta_server.keys.key import SCOPES, Key
from tta_server.keys.keyring import Keyring
from tta_server.keys.tokens import LEEWAY_S, Tokens, read_token_keys
from tta_server.settings_door import AuthSettings

ISSUERS = {algorithm: Issuer(algorithm, algorithm) for algorithm in MAKERS}
GOOD = ISSUERS["EdDSA"]
STRANGER = Issuer("EdDSA")
PUBLIC = GOOD.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
PRIVATE = GOOD.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Tokens:
    file = write_jwks(tmp_path_factory.mktemp("issuer") / "jwks.json", *ISSUERS.values())
    return Tokens(read_token_keys(file), AUDIENCE, ISSUER)


def auth(file: Path) -> AuthSettings:
    return AuthSettings(jwt_keys_file=file, jwt_audience=AUDIENCE, jwt_issuer=ISSUER)


def part(said: object) -> str:
    """Return a part of a token, of JSON or of bytes."""
    content = said if isinstance(said, bytes) else json.dumps(said).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def unsigned(algorithm: str) -> str:
    return f"{part({'alg': algorithm, 'kid': GOOD.kid})}.{part(GOOD.claims())}."


def signed_by_the_public_key() -> str:
    """Return what a checker takes that lets the token choose how its public key is used."""
    head = unsigned("HS256").rstrip(".")
    return f"{head}.{part(hmac.digest(PUBLIC, head.encode(), hashlib.sha256))}"


@pytest.mark.parametrize("issuer", ISSUERS.values(), ids=ISSUERS)
def test_a_good_token_says_what_an_entry_of_the_file_of_keys_does(tokens, issuer):
    said = {"tta_models": ["glyphs"], "tta_images_per_s": 5, "nbf": time.time() - 1, "aud": ["another", AUDIENCE]}
    token = issuer.token(**said)

    key = tokens.find(token)

    assert key == Key(
        name="cameras",
        sha256=hashlib.sha256(token.encode()).hexdigest(),
        scopes=["infer"],
        streams=["gate-*"],
        models=["glyphs"],
        images_per_s=5.0,
    )
    assert tokens.find(token) is key


@pytest.mark.parametrize("scope", SCOPES)
def test_scopes_are_the_words_that_this_server_knows(tokens, scope):
    assert tokens.find(GOOD.token(scope=f"email {scope} {scope}s")).scopes == [scope]


@pytest.mark.parametrize("subject", ["auth0|5f7c8e", "system:serviceaccount:gates:camera-7", "a.b+c@example.org"])
def test_whoever_names_subjects_need_not_know_our_names(tokens, subject):
    assert tokens.find(GOOD.token(sub=subject)).name == subject


def test_clocks_may_differ_a_little(tokens):
    assert tokens.find(GOOD.token(exp=time.time() - LEEWAY_S / 2, nbf=time.time() + LEEWAY_S / 2))


REFUSED = {
    "expired": lambda: GOOD.token(exp=time.time() - 2 * LEEWAY_S),
    "without an end": lambda: GOOD.token(exp=None),
    "that never ends": lambda: GOOD.token(exp=float("inf")),
    "not yet valid": lambda: GOOD.token(nbf=time.time() + 600),
    "made in the future": lambda: GOOD.token(iat=time.time() + 600),
    "for another service": lambda: GOOD.token(aud="another"),
    "for no service": lambda: GOOD.token(aud=None),
    "of another issuer": lambda: GOOD.token(iss=f"{ISSUER}/"),
    "of no issuer": lambda: GOOD.token(iss=None),
    "of nobody": lambda: GOOD.token(sub=None),
    "of the server itself": lambda: GOOD.token(sub="Engine"),
    "of a name with a line break": lambda: GOOD.token(sub="a\nb"),
    "without scopes": lambda: GOOD.token(scope=None),
    "of scopes that this server does not know": lambda: GOOD.token(scope="openid Admin admins"),
    "of scopes in a list": lambda: GOOD.token(scope=["admin"]),
    "of scopes within something else": lambda: GOOD.token(scope={"a": "x admin y"}),
    "that ends beyond all numbers": lambda: GOOD.token(exp=10**400),
    "of many bytes": lambda: GOOD.token(more="m" * 8192),
    "without streams": lambda: GOOD.token(tta_streams=None),
    "for no stream": lambda: GOOD.token(tta_streams=[]),
    "for streams in a text": lambda: GOOD.token(tta_streams="*"),
    "for no model": lambda: GOOD.token(tta_models=[]),
    "of a negative rate": lambda: GOOD.token(tta_images_per_s=-1),
    "of a rate that is a truth": lambda: GOOD.token(tta_images_per_s=True),
    "of a rate in a text": lambda: GOOD.token(tta_images_per_s="5"),
    "of a rate in a list": lambda: GOOD.token(tta_images_per_s=[5]),
    "that ends in a text": lambda: GOOD.token(exp=str(int(time.time()) + 3600)),
    "valid from a text on": lambda: GOOD.token(nbf="1"),
    "valid from a truth on": lambda: GOOD.token(nbf=True),
    "made in a text": lambda: GOOD.token(iat="1"),
    "signed by a stranger": lambda: STRANGER.token({"kid": GOOD.kid}),
    "of an unknown key": lambda: GOOD.token({"kid": "two"}),
    "that names no key": lambda: GOOD.token({"kid": ""}),
    "of another's key": lambda: GOOD.token({"kid": "RS256"}),
    "with an extension": lambda: GOOD.token({"crit": ["x"], "x": 1}),
    "unsigned": lambda: unsigned("none"),
    "unsigned, in capitals": lambda: unsigned("NONE"),
    "signed by the public key": lambda: signed_by_the_public_key(),
    "of empty parts": lambda: "..",
    "of a deep head": lambda: f"{part(b'[' * 20_000)}.{part({})}.",
    "of a name that is none": lambda: f"{part({'alg': 'EdDSA', 'kid': {}})}.{part({})}.",
}


@pytest.mark.parametrize("made", REFUSED.values(), ids=REFUSED)
def test_every_other_token_is_refused_and_only_the_log_says_why(tokens, made, caplog):
    token = made()  # now: times are in it
    caplog.set_level("DEBUG")

    with pytest.raises(Unauthorized) as wrong:
        Keyring([], tokens).find(token)

    with pytest.raises(Unauthorized, match=re.escape(str(wrong.value))):
        Keyring([]).find("a wrong key")
    (line,) = [record.getMessage() for record in caplog.records if "a token was refused" in record.message]
    assert not any(secret in line for secret in token.split(".") if len(secret) > 3)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10_000), put=st.sampled_from("Aa0_-.=~\xff\udcff"))
def test_a_token_that_was_changed_anywhere_says_the_same_or_nothing(tokens, place, put):
    token = GOOD.token()
    place %= len(token)

    found = tokens.find(token[:place] + put + token[place + 1 :])

    assert found is None or found.model_dump(exclude={"sha256"}) == tokens.find(token).model_dump(exclude={"sha256"})


def test_what_was_found_is_kept_no_longer_than_the_token_is_good(tokens, monkeypatch):
    token = GOOD.token()
    found = tokens.find(token)
    monkeypatch.setattr(jwt, "decode", lambda *_, **__: pytest.fail("it is known"))
    assert tokens.find(token) is found

    late = time.time() + 3600 + 2 * LEEWAY_S
    monkeypatch.undo()
    monkeypatch.setattr(time, "time", lambda: late)
    monkeypatch.setattr(tokens, "_claims", lambda _: {}["it is asked again"])
    with pytest.raises(KeyError, match="asked again"):
        tokens.find(token)


def test_one_public_key_as_pem_is_for_tokens_that_name_it_in_any_way(tmp_path):
    (tmp_path / "public.pem").write_bytes(PUBLIC)
    ring = open_keyring(auth(tmp_path / "public.pem"))

    assert {ring.find(GOOD.token(header)).name for header in ({}, {"kid": "2026-11"})} == {"cameras"}
    with pytest.raises(Unauthorized):
        ring.find(STRANGER.token())


def short_rsa() -> dict:
    return RSAAlgorithm.to_jwk(generate_private_key(65537, 1024).public_key(), as_dict=True)


SECRET = {"kty": "oct", "k": part(b"s" * 32), "kid": "one"}
OTHERS = (  # of kinds that no token here is signed by
    {"kty": "EC", "crv": "P-384", "x": part(b"x" * 48), "y": part(b"y" * 48)},
    {"kty": "OKP", "crv": "X25519", "x": part(b"x" * 32)},
    {"kty": "of tomorrow"},
)


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: other.get("crv", "unknown"))
def test_keys_of_other_kinds_are_left_out(tmp_path, other):
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [other | {"kid": "other"}, GOOD.jwk()]}))

    assert open_keyring(auth(file)).find(GOOD.token()).name == "cameras"


FILES = {
    "nothing": (b"", "neither a JWKS nor a public key"),
    "broken": (b'{"keys": [', "neither a JWKS nor a public key"),
    "of no keys": ({"keys": []}, "all for something else"),
    "of other algorithms": ({"keys": [GOOD.jwk(alg="RS512"), SECRET | {"alg": "HS256"}]}, "expected one for RS256"),
    "for encryption": ({"keys": [GOOD.jwk(use="enc")]}, "all for something else"),
    "of a private key": (PRIVATE, "neither a JWKS nor a public key"),
    "of a private entry": (
        {"keys": [json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(GOOD.private))]},
        "not public, or of another kind",
    ),
    "of a shared secret": ({"keys": [SECRET]}, "not public, or of another kind"),
    "of a short key": ({"keys": [short_rsa()]}, "2048 bits"),
    "of one name twice": ({"keys": [GOOD.jwk(), STRANGER.jwk(kid=GOOD.kid)]}, "a 'kid' of its own"),
    "of something else": ({"keys": ["a"]}, "neither a JWKS nor a public key"),
}


@pytest.mark.parametrize(("content", "said"), FILES.values(), ids=FILES)
def test_a_file_that_cannot_be_used_is_told_in_one_line_without_what_is_in_it(tmp_path, content, said):
    file = tmp_path / "jwks.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())

    with pytest.raises(ValueError) as error:  # noqa: PT011 (what it says is compared below)
        open_keyring(auth(file))

    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert SECRET["k"] not in str(error.value)


def test_a_key_that_was_replaced_is_good_no_more_and_a_broken_file_changes_nothing(tmp_path, caplog):
    old, new = Issuer("old"), Issuer("new")
    file = write_jwks(tmp_path / "jwks.json", old)
    ring = open_keyring(auth(file))

    def known(issuer: Issuer) -> bool:
        return ring.tokens.find(issuer.token(sub=issuer.kid, exp=4e9)) is not None

    async def rotate() -> None:
        async def until(condition) -> None:
            async with asyncio.timeout(30):
                while not condition():
                    await asyncio.sleep(0.01)

        following = asyncio.create_task(follow(auth(file), ring, 0.01))
        assert (known(old), known(new)) == (True, False)
        write_jwks(file, old, new)
        await until(lambda: known(new))
        assert known(old)
        write_jwks(file, new)
        await until(lambda: not known(old))
        file.write_text("{")
        await until(lambda: "the keys read before stay in force" in caplog.text)
        assert (known(old), known(new)) == (False, True)
        following.cancel()

    asyncio.run(rotate())


def test_a_rate_is_the_subjects_whichever_token_is_sent(tokens):
    ring = Keyring([], tokens)
    first, second = (ring.find(GOOD.token(tta_images_per_s=1, jti=name)) for name in ("a", "b"))
    ring.take(first, 5, 0.0)

    with pytest.raises(RateLimited):
        ring.take(second, 1, 0.0)
    ring.take(ring.find(GOOD.token(tta_images_per_s=1, sub="another")), 1, 0.0)


def test_without_the_extra_the_start_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tta_server.keys.tokens", None)

    with pytest.raises(ValueError, match=re.escape("install tta-server[jwt]")):
        open_keyring(auth(tmp_path / "jwks.json"))


def test_the_commands_of_the_page_make_a_token_that_its_configuration_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = block("bash", "jwt.encode").replace("python -c", f"{sys.executable} -c")
    subprocess.run(["bash", "-euc", written], check=True, timeout=60)

    ring = open_keyring(AuthSettings(**yaml.safe_load(block("yaml", "jwt_audience"))["auth"]))

    key = ring.find(Path("token").read_text().strip())
    assert (key.name, key.scopes, key.streams) == ("gate-cameras", ["infer"], ["gate-*"])
