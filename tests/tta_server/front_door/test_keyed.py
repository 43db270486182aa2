"""A real server with keys and tokens: who has none hears nothing but that, and none is ever written down."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from load_tests.wire import connected, head, heard
from tests.server import running
from tests.tta_server.calls import INFER, body, glyph_images
from tests.tta_server.issuer import AUDIENCE, ISSUER, Issuer, write_jwks
from tta_server.keys.new_key import new_key

WITHIN_S = 60.0
PICTURE = body(glyph_images(0, 1))
MAKER = Issuer()


def until(true: Callable[[], bool]) -> None:
    """Wait until something is true, and fail if it never is."""
    deadline = time.monotonic() + WITHIN_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keyed")
    secret, _ = new_key(folder / "keys.yaml", {"name": "gates", "scopes": ["read"], "streams": ["gate-*"]})
    config = {
        "model": {"device": "cpu"},
        "logging": {"level": "debug", "access": True},
        "auth": {
            "keys_file": str(folder / "keys.yaml"),
            "jwt_keys_file": str(write_jwks(folder / "jwks.json", MAKER)),
            "jwt_audience": AUDIENCE,
            "jwt_issuer": ISSUER,
        },
    }
    with running(folder, config, forked=False) as server:
        yield server, secret, folder


def test_a_key_and_a_token_open_what_they_are_for_and_are_written_nowhere(keyed):
    server, secret, folder = keyed
    token, expired = MAKER.token(scope="read"), MAKER.token(exp=1)

    def ask(key: str, stream: str) -> int:
        headers = {"Authorization": f"Bearer {key}", "X-Stream-Id": stream}
        return server.client.post(INFER, content=PICTURE, headers=headers).status_code

    for good, wrong in ((secret, f"{secret[:-1]}~"), (token, expired)):
        mine = {"Authorization": f"Bearer {good}"}
        assert [ask(good, "gate-1"), ask(good, "door-1"), ask(wrong, "gate-1")] == [200, 403, 401]
        assert server.client.get("/v1/streams/gate-1", headers=mine).status_code == 200
        assert server.client.get("/metrics", headers=mine).status_code == 403
    assert server.client.post(INFER, content=PICTURE).status_code == 401

    log = (folder / "server.log").read_text()
    assert f"tokens of {ISSUER}" in log
    assert "a token was refused: Signature has expired" in log
    written = [path.read_text() for path in Path(folder).iterdir() if path.is_file()]
    secrets = (secret, secret[:-1], "Bearer", *token.split("."), *expired.split("."))
    assert not any(sent in text for text in written for sent in secrets)


@pytest.mark.parametrize("path", ["/predict", "/v1/hand-over", "/nowhere"])
def test_a_body_without_a_key_is_not_waited_for(keyed, path):
    server, _, _ = keyed
    with connected(server.url, head(path, 60_000) + b"x") as connection:
        status, said = heard(connection)

    assert (status, said["code"]) == (401, "unauthorized")


def test_the_file_of_keys_is_read_again_when_it_changes_and_a_broken_one_changes_nothing(keyed):
    server, secret, folder = keyed
    file, log = folder / "keys.yaml", folder / "server.log"
    before = file.read_text()

    def status(key: str) -> int:
        return server.client.get("/v1/streams", headers={"Authorization": f"Bearer {key}"}).status_code

    later, _ = new_key(file, {"name": "later", "scopes": ["read"], "streams": ["*"]})
    until(lambda: status(later) == 200)
    both = file.read_text()
    file.write_text("keys: [")
    until(lambda: "the keys read before stay in force" in log.read_text())
    assert [status(secret), status(later)] == [200, 200]
    file.unlink()
    until(lambda: log.read_text().count("the keys read before stay in force") == 2)
    assert [status(secret), status(later)] == [200, 200]
    file.write_text(before)
    until(lambda: status(later) == 401)
    assert status(secret) == 200
    assert "gone=later" in log.read_text()
    assert later not in both + log.read_text()


def test_every_answer_tells_a_browser_to_be_careful(keyed):
    server, _, _ = keyed
    for path in ("/v2/health/live", "/predict", "/nowhere"):
        headers = server.client.get(path).headers

        assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
        assert (headers["cache-control"], headers["referrer-policy"]) == ("no-store", "no-referrer")
        assert "server" not in headers
