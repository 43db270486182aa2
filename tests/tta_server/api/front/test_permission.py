"""Every route, asked with every kind of key: the routes come from the OpenAPI document, and none may be forgotten."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest

from tests.tta_server.calls import UNGUARDED
from tests.tta_server.issuer import AUDIENCE, ISSUER, Issuer, write_jwks
from tests.tta_server.runtime.fakes import SHAPE, tiny
from tta_server.api.front.permission import OPEN
from tta_server.app import Service, build
from tta_server.keys.key import SCOPES
from tta_server.keys.new_key import new_key
from tta_server.models import Model, Preprocess
from tta_server.settings_file import load_settings

ALL = "every stream"
NEEDS = {
    "POST /predict": "infer",
    "POST /v1/labels": "infer",
    "POST /v2/models/{name}/infer": "infer",
    "POST /v2/models/{name}/versions/{version}/infer": "infer",
    "GET /v2": "infer",
    "GET /v2/models": "infer",
    "GET /v2/models/{name}": "infer",
    "GET /v2/models/{name}/versions/{version}": "infer",
    "GET /v2/models/{name}/ready": "infer",
    "GET /v2/models/{name}/versions/{version}/ready": "infer",
    "GET /v2/models/{name}/config": "infer",
    "GET /v2/models/{name}/versions/{version}/config": "infer",
    "POST /v2/repository/index": "infer",
    "POST /v2/repository/{repository}/index": "infer",
    "POST /v2/repository/models/{name}/load": f"admin {ALL}",
    "POST /v2/repository/models/{name}/unload": f"admin {ALL}",
    "GET /v2/models/stats": f"read {ALL}",
    "GET /v2/models/{name}/stats": f"read {ALL}",
    "GET /v2/models/{name}/versions/{version}/stats": f"read {ALL}",
    "GET /v1/streams": "read",
    "GET /v1/streams/{name}": "read",
    "GET /v1/streams/{name}/domains": "read",
    "GET /v1/streams/{name}/drift": "read",
    "GET /v1/streams/{name}/snapshots": "read",
    "GET /v1/streams/{name}/audit": "read",
    "GET /v1/audit": f"read {ALL}",
    "GET /metrics": f"read {ALL}",
    "GET /v1/calibrate": f"read {ALL}",
    "POST /v1/calibrate": f"admin {ALL}",
    "DELETE /v1/calibrate": f"admin {ALL}",
    "POST /v1/streams/{name}/compare": "infer",
    "GET /v1/streams/{name}/state": "operate",
    "GET /v1/streams/{name}/strange": "operate",
    "POST /v1/streams": "operate",
    "PATCH /v1/streams/{name}": "operate",
    "POST /v1/streams/{name}/reset": "operate",
    "POST /v1/streams/{name}/rollback": "operate",
    "POST /v1/streams/{name}/evict": "operate",
    "POST /v1/streams/{name}/snapshots": "operate",
    "POST /v1/streams/{name}/restore": "operate",
    "PATCH /v1/streams/{name}/domains/{number}": "operate",
    "POST /v1/streams/{name}/domains/{number}/offer": "operate",
    "DELETE /v1/streams/{name}": "admin",
    "DELETE /v1/streams/{name}/domains/{number}": "admin",
    "PUT /v1/streams/{name}/state": "admin",
    "PATCH /v1/streams": f"admin {ALL}",
    "GET /v2/health/live": "",
    "GET /v2/health/ready": "",
}
"""What each route needs; empty is nothing."""

TENSOR = {"name": "input", "datatype": "UINT8", "shape": [1, *SHAPE], "data": np.arange(np.prod(SHAPE)).tolist()}
BODIES = {
    "infer": {"inputs": [TENSOR]},
    "streams": {"name": "gate-1", "mode": "off", "reason": "x"},
    "labels": {"labels": [{"id": "a", "label": 0}]},
    "calibrate": {"reason": "x"},
    "reset": {"reason": "x"},
    "rollback": {"reason": "x"},
    "restore": {"snapshot": "x", "reason": "x"},
    "offer": {"to": ["gate-2"], "reason": "x"},
}
KEYS = {
    **{scope: {"scopes": [scope], "streams": ["gate-?"]} for scope in SCOPES},
    "root": {"scopes": ["admin"], "streams": ["*"]},
    "other tenant": {"scopes": ["admin"], "streams": ["door-*"]},
    "other model": {"scopes": ["admin"], "streams": ["*"], "models": ["another"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the files are that the server's keys are in."""
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def keys(folder: Path) -> dict[str, str]:
    file = folder / "keys.yaml"
    made = {name: new_key(file, {"name": name.replace(" ", "-")} | entry)[0] for name, entry in KEYS.items()}
    return {"no key": "", "wrong key": "tta_" + "x" * 43, **made}


@pytest.fixture(scope="module")
def tokens(folder: Path) -> dict[str, str]:
    """Return tokens that say the same as the keys."""
    issuer = Issuer()
    write_jwks(folder / "jwks.json", issuer)

    def token(name: str, scopes: list, **lists: list) -> str:
        claims = {f"tta_{each}": listed for each, listed in lists.items()}
        return issuer.token(sub=name, scope=" ".join(scopes), **claims)

    made = {name: token(f"gate|{name.replace(' ', '-')}", **entry) for name, entry in KEYS.items()}
    return {"no key": "", "wrong key": Issuer().token(), **made}


@pytest.fixture(scope="module")
def service(folder: Path, keys: dict[str, str], tokens: dict[str, str]) -> Iterator[Service]:
    auth = {
        "keys_file": folder / "keys.yaml",
        "jwt_keys_file": folder / "jwks.json",
        "jwt_audience": AUDIENCE,
        "jwt_issuer": ISSUER,
    }
    settings = load_settings(None, {"guard": UNGUARDED, "auth": auth})
    made = build(settings, Model(tiny(), Preprocess(SHAPE[1:]), ("a", "b", "c", "d")))
    made.served.start()
    yield made
    made.served.stop()


def ask(service: Service, requests: list[tuple[str, str, str, dict]], port: int = 8000) -> list[httpx.Response]:
    """Send requests: method, path, key and headers."""

    async def all_of_them() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url=f"http://x:{port}") as client:
            found = []
            for method, path, key, headers in requests:
                more = {"Authorization": f"Bearer {key}"} if key else {}
                last = path.rpartition("/")[2]
                content = orjson.dumps(BODIES.get(last, {"mode": "off"})) if method in ("POST", "PATCH") else b""
                kind = {"Content-Type": "application/json"}
                found.append(await client.request(method, path, content=content, headers=kind | more | headers))
            return found

    return asyncio.run(all_of_them())


def filled(path: str, stream: str = "gate-1") -> str:
    name = "tiny" if path.startswith("/v2") else stream
    return path.replace("{name}", name).replace("{version}", "1").replace("{number}", "1")


def expected(needed: str, who: str, path: str) -> set[int]:
    """Return the statuses that say no, of which the answer must be one; empty if the key may ask."""
    if not needed:
        return set()
    if who in ("no key", "wrong key"):
        return {401}
    scope, _, every = needed.partition(" ")
    if who == "other model":
        return set() if path in ("/v2", "/v2/models", "/v2/models/stats") or path.endswith("/index") else {403}
    if who == "other tenant":
        about_streams = "{name}" in path and path.startswith("/v1")
        return {403} if every or about_streams or path in ("/predict", "/v1/streams POST") else set()
    if who != "root" and (every or SCOPES.index(who) < SCOPES.index(scope)):
        return {403}
    return set()


def test_every_route_has_its_rule(service):
    routes = {
        f"{method.upper()} {path}" for path, methods in service.app.openapi()["paths"].items() for method in methods
    }

    assert routes == set(NEEDS)


@pytest.mark.parametrize("kind", ["keys", "tokens"])
@pytest.mark.parametrize("who", ["no key", "wrong key", *KEYS])
def test_every_route_is_for_those_keys_and_tokens_alone_that_may_ask_it(service, request, who, kind):
    sent = request.getfixturevalue(kind)[who]
    asked = [(*route.split(" "), needed) for route, needed in NEEDS.items()]
    headers = {"X-Stream-Id": "gate-1"}

    found = ask(service, [(method, filled(path), sent, headers) for method, path, _ in asked])

    for (method, path, needed), response in zip(asked, found, strict=True):
        named = path.endswith("infer") or (method, path) == ("POST", "/v1/streams")  # the stream, elsewhere
        refused = {403} if who == "other tenant" and named else expected(needed, who, path)
        if refused:
            assert response.status_code in refused, (method, path, response.text)
            assert set(response.json()) == {"error", "code"}
            assert ("www-authenticate" in response.headers) == (response.status_code == 401)
        else:
            assert response.status_code not in (401, 403), (method, path, response.text)


def test_a_wrong_token_is_told_no_more_than_a_wrong_key(service, keys, tokens):
    told = [
        (found.status_code, found.json(), found.headers["www-authenticate"])
        for found in ask(service, [("GET", "/v2", each["wrong key"], {}) for each in (keys, tokens)])
    ]

    assert told[0] == told[1]


def test_probes_need_no_key_and_unknown_paths_need_all(service, keys):
    open_ones = ask(service, [("GET", path, "", {}) for path in OPEN])
    unknown = [("GET", path, keys["operate"], {}) for path in ("/nothing", "/v1/streams/", "/metrics/")]

    assert {response.status_code for response in open_ones} <= {200, 404}
    assert {response.status_code for response in ask(service, unknown)} == {403}


def test_nobody_sees_or_gives_away_the_streams_of_another(service, keys):
    ask(service, [("POST", "/v1/streams", keys["root"], {})])

    mine, others = ask(service, [("GET", "/v1/streams", keys[who], {}) for who in ("read", "other tenant")])
    assert [[each["name"] for each in found.json()["streams"]] for found in (mine, others)] == [["gate-1"], []]

    (given,) = ask(service, [("POST", "/v1/streams/door-1/domains/1/offer", keys["other tenant"], {})])
    assert (given.status_code, "not for 'gate-2'" in given.text) == (403, True)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v2/models"), ("GET", "/v2/models/stats"), ("POST", "/v2/repository/index"),
     ("POST", "/v2/repository/any/index")],
)  # fmt: skip
def test_nobody_sees_the_models_of_another(service, keys, method, path):
    mine, others = ask(service, [(method, path, keys[who], {}) for who in ("root", "other model")])

    assert ("tiny" in mine.text, "tiny" in others.text) == (True, False)


def test_the_document_says_which_routes_need_a_key(service):
    for path, methods in service.app.openapi()["paths"].items():
        for operation in methods.values():
            assert (operation.get("security") == [{"key": []}]) == (path not in OPEN)
            assert {"401", "403"} <= set(operation["responses"]) or path in OPEN


def test_a_key_may_use_up_its_rate_and_no_more(tmp_path):
    file = tmp_path / "keys.yaml"
    secret, _ = new_key(file, {"name": "slow", "scopes": ["infer"], "streams": ["*"], "images_per_s": 0.01})
    settings = load_settings(None, {"guard": UNGUARDED, "auth": {"keys_file": file}})
    made = build(settings, Model(tiny(), Preprocess(SHAPE[1:]), ("a", "b", "c", "d")))
    made.served.start()
    try:
        first, second = ask(made, [("POST", "/v2/models/tiny/infer", secret, {})] * 2)
    finally:
        made.served.stop()

    assert (first.status_code, second.status_code) == (200, 429)
    assert second.json()["code"] == "rate_limited"
    assert 1 <= int(second.headers["Retry-After"]) <= 100


def test_metrics_of_all_models_are_for_keys_of_all_models(tmp_path):
    file = tmp_path / "keys.yaml"
    every, one = (
        new_key(file, {"name": f"of-{name}", "scopes": ["admin"], "streams": ["*"], "models": [models]})[0]
        for name, models in (("every", "*"), ("one", "tiny"))
    )
    repository = {"models": {"second": {"architecture": "glyphs"}}}
    settings = load_settings(None, {"guard": UNGUARDED, "auth": {"keys_file": file}, "repository": repository})
    made = build(settings, Model(tiny(), Preprocess(SHAPE[1:]), ("a", "b", "c", "d")))
    made.models.start()
    try:
        answers = ask(
            made,
            [("GET", "/metrics", one, {}), ("GET", "/metrics", every, {}),
             ("POST", "/v2/repository/models/second/unload", every, {}), ("GET", "/metrics", one, {})],
        )  # fmt: skip
    finally:
        made.models.stop()

    assert [each.status_code for each in answers] == [403, 200, 200, 200]
    assert "not for all of them" in answers[0].text


@pytest.mark.parametrize(("kind", "name"), [("keys", "operate"), ("tokens", "gate|operate")])
def test_the_audit_log_knows_a_caller_by_the_key_or_the_subject(service, request, kind, name):
    sent = request.getfixturevalue(kind)
    opened, reset = ("POST", "/v1/streams", sent["root"], {}), ("POST", "/v1/streams/gate-1/reset", sent["operate"], {})

    *_, read = ask(service, [opened, reset, ("GET", "/v1/streams/gate-1", sent["read"], {})])

    assert read.json()["verdicts"][-1]["who"] == name


ADMIN_PORT = 9000


@pytest.fixture(scope="module")
def divided() -> Iterator[Service]:
    """Yield a server without keys, and with a port for operations."""
    settings = load_settings(None, {"guard": UNGUARDED, "server": {"admin_port": ADMIN_PORT}})
    made = build(settings, Model(tiny(), Preprocess(SHAPE[1:]), ("a", "b", "c", "d")))
    made.served.start()
    yield made
    made.served.stop()


def test_each_route_is_answered_by_the_port_that_it_is_for(divided):
    routes = [(*route.split(" "), scope) for route, scope in NEEDS.items()]
    asked = [(method, filled(path), "", {}) for method, path, _ in routes]

    main, admin = (ask(divided, asked, port) for port in (8000, ADMIN_PORT))

    for (method, path, scope), *answers in zip(routes, main, admin, strict=True):
        of_clients = path in ("/predict", "/v1/labels") or path.endswith("/infer")
        refused = ["(server.admin_port)" in each.text and each.status_code == 404 for each in answers]
        assert refused == [scope not in ("infer", ""), of_clients], (method, path)


def test_pages_and_unknown_paths_are_the_operators_and_probes_everybodys(divided):
    page = {"Accept": "text/html"}
    asked = [("GET", path, "", page) for path in ("/", "/docs", "/page/page.js", "/nothing", "/openapi.json", *OPEN)]

    main, admin = ([each.status_code for each in ask(divided, asked, port)] for port in (8000, ADMIN_PORT))

    assert main == [404, 404, 404, 404, 200, *[200] * len(OPEN)]
    assert admin == [200, 200, 200, 404, 200, *[200] * len(OPEN)]
