"""Two tenants of one server: neither hears of the other's streams and models, by whatever way."""

from collections.abc import Iterator

import httpx
import pytest

from tests.server import running
from tests.tta_server.api.test_domains import CONFIG, ROWS, met, noisy
from tests.tta_server.calls import INFER, body, glyph_images, infer
from tta_server.keys.new_key import new_key

REASON = {"reason": "the new gate"}


@pytest.fixture(scope="module")
def tenants(tmp_path_factory) -> Iterator[dict[str, httpx.Client]]:
    """A server with two models, and a client of each tenant, and of whoever runs it."""
    folder = tmp_path_factory.mktemp("tenants")
    file = folder / "keys.yaml"
    rights = {
        "root": {"scopes": ["admin"], "streams": ["*"]},
        "a": {"scopes": ["admin"], "streams": ["a-*"]},
        "b": {"scopes": ["admin"], "streams": ["b-*"]},
        "second": {"scopes": ["read"], "streams": ["*"], "models": ["s*"]},
    }
    secrets = {name: new_key(file, {"name": name} | each)[0] for name, each in rights.items()}
    repository = {"models": {"second": {"architecture": "glyphs"}}}
    kept = {"storage": {"url": str(folder / "kept"), "save_every_s": 0.05}}
    with running(folder, CONFIG | kept | {"auth": {"keys_file": str(file)}, "repository": repository}) as server:
        clients = {
            name: httpx.Client(base_url=server.url, timeout=60, headers={"Authorization": f"Bearer {secret}"})
            for name, secret in secrets.items()
        }
        yield clients
        for each in clients.values():
            each.close()


def extras(client: httpx.Client, stream: str) -> list[dict]:
    return [line["extra"] for line in client.get(f"/v1/streams/{stream}/audit").json()["entries"]]


def test_an_offered_domain_does_not_tell_whose_it_was(tenants):
    met(tenants["a"], "a-9")
    infer(tenants["b"], "b-1", glyph_images(0, ROWS))

    given = tenants["root"].post("/v1/streams/a-9/domains/1/offer", json={"to": ["b-1"]} | REASON)

    assert given.json() == {"opened": ["b-1@1"]}
    for name in ("b-1", "b-1@1"):
        assert any(each.get("from") == "a-9@1" for each in extras(tenants["root"], name))
        assert not any("from" in each for each in extras(tenants["b"], name))
        assert "a-9" not in tenants["b"].get(f"/v1/streams/{name}/audit").text
        assert "a-9" not in tenants["b"].get(f"/v1/streams/{name}").text
    assert {"to": ["b-1"]} in extras(tenants["root"], "a-9@1")
    assert {"to": []} in extras(tenants["a"], "a-9@1")
    assert "b-1" not in tenants["a"].get("/v1/streams/a-9@1/audit").text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/models/snope"),
        ("GET", "/v2/models/snope/ready"),
        ("GET", "/v2/models/snope/config"),
        ("GET", "/v2/models/snope/stats"),
        ("POST", "/v2/models/snope/infer"),
        ("GET", "/v2/models/glyph"),
        ("POST", "/predict"),
        ("GET", "/v1/streams"),
        ("GET", "/metrics"),
        ("GET", "/v2/models"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/snope/load"),
    ],
)
def test_a_model_that_a_key_is_not_for_is_named_to_nobody(tenants, method, path):
    answer = tenants["second"].request(method, path, content=body(noisy(0, 1)) if path.endswith("infer") else b"")

    assert "glyphs" not in answer.text


def test_the_model_that_a_key_is_for_answers_it(tenants):
    answer = tenants["second"].post(INFER.replace("glyphs", "second"), content=body(noisy(0, 1)))

    assert answer.status_code == 200
