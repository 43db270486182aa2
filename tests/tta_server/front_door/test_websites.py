"""What a website has a browser send to a server without keys: it reads nothing and does nothing; own pages go on."""

import pytest

from load_tests.wire import connected, heard
from tests.server import running
from tests.tta_server.api.exchange import Exchange
from tests.tta_server.calls import INFER, body, glyph_images, metric
from tta_server.api.front.websites import OwnPages
from tta_server.keys.new_key import new_key

OTHERS = ("http://evil.example", "null", "http://localhost", "https://{host}", "http://{host}.evil.example", "")
RESET, UNLOAD = "/v1/streams/default/reset", "/v2/repository/models/glyphs/unload"
IMAGE = body(glyph_images(0, 1))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("websites"), {"model": {"device": "cpu"}}) as started:
        started.client.post(INFER, content=IMAGE).raise_for_status()
        yield started


def asked(server, method: str, path: str, **headers: str) -> tuple[int, str]:
    answer = server.client.request(method, path, headers=headers)
    return answer.status_code, answer.json().get("code", "")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "xlocalhost", "x",
                                  "127.0.0.1.evil.example", "a:b.localhost", "[evil]", "127.0.0.1:x"])  # fmt: skip
def test_a_name_that_may_be_a_websites_reads_nothing(server, host):
    before = metric(server.client, 'tta_refusals_total{model="glyphs",reason="forbidden"}')

    answers = [asked(server, "GET", path, host=host) for path in ("/v1/streams", "/livez", "/", "/nowhere")]

    assert set(answers) == {(403, "forbidden")}
    assert metric(server.client, 'tta_refusals_total{model="glyphs",reason="forbidden"}') == before + 4


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:9", "localhost:8000", "LocalHost", "gate.localhost:1",
                                  "[::1]", "[::1]:8000", "[::ffff:127.0.0.1]", "10.0.0.7:8000", ""])  # fmt: skip
def test_an_address_or_this_machine_is_answered_and_so_is_its_page(server, host):
    assert asked(server, "GET", "/v1/streams", host=host)[0] == 200
    assert asked(server, "POST", RESET, host=host)[0] == 200
    if host:
        assert asked(server, "POST", RESET, host=host, origin=f"http://{host}".lower())[0] == 200


@pytest.mark.parametrize("origin", OTHERS)
def test_another_websites_request_changes_nothing(server, origin):
    host = server.url.removeprefix("http://")
    known = server.client.get("/v1/streams/default").json()
    before = [known[name] for name in ("state_version", "images")]
    there = {"origin": origin.format(host=host)}

    for method, path in (("POST", RESET), ("POST", UNLOAD), ("PATCH", "/v1/streams/default"), ("POST", "/predict"),
                         ("DELETE", "/v1/streams/default"), ("PUT", "/v1/streams/default/state")):  # fmt: skip
        assert asked(server, method, path, **there) == (403, "forbidden"), path
    answer = server.client.post(INFER, content=IMAGE, headers=there)

    assert (answer.status_code, answer.headers["connection"]) == (403, "close")
    assert "set auth.keys_file, or auth.insecure_public" in answer.json()["error"]
    after = server.client.get("/v1/streams/default").json()
    assert [after[name] for name in ("state_version", "images")] == before
    assert server.client.get("/v2/health/ready").status_code == 200
    assert asked(server, "GET", "/v1/streams", **there)[0] == 200, "whose answer it cannot read"


def test_without_a_host_it_is_as_before_but_for_websites(server):
    for head, status in ((b"GET /livez HTTP/1.0\r\n", 200), (b"POST %s HTTP/1.0\r\nOrigin: http://\r\n", 403)):
        with connected(server.url, head.replace(b"%s", RESET.encode()) + b"\r\n") as connection:
            assert heard(connection)[0] == status


@pytest.mark.parametrize("auth", ["insecure", "keys"])
def test_where_keys_are_asked_for_or_a_proxy_guards_the_server_any_name_and_page_is_answered(tmp_path, auth):
    new_key(tmp_path / "keys.yaml", {"name": "cameras", "scopes": ["infer"], "streams": ["*"]})
    said = {"insecure_public": True} if auth == "insecure" else {"keys_file": str(tmp_path / "keys.yaml")}
    with running(tmp_path, {"model": {"device": "cpu"}, "auth": said}) as server:
        there = {"host": "tta.example", "origin": "https://tta.example"}
        assert asked(server, "GET", "/livez", **there)[0] == 200
        assert asked(server, "POST", "/v1/streams", **there)[0] == (400 if auth == "insecure" else 401)


def test_what_is_no_request_passes():
    passed = []

    async def app(scope, _receive, _send):
        passed.append(scope["type"])

    exchange = Exchange([])
    exchange.scope = {"type": "lifespan"}
    exchange.through(OwnPages(app, print))

    assert passed == ["lifespan"]
