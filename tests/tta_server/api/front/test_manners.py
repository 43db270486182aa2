"""What HTTP expects of every resource, and what a proxy puts in front of it."""

import asyncio
import socket
from collections.abc import Iterator

import httpx
import pytest

from tests.tta_server.calls import UNGUARDED
from tests.tta_server.runtime.fakes import SHAPE, tiny
from tta_server import __version__
from tta_server.app import Service, build
from tta_server.models import Model, Preprocess
from tta_server.serve import _bound
from tta_server.settings_file import load_settings


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    made = build(load_settings(None, {"guard": UNGUARDED}), Model(tiny(), Preprocess(SHAPE[1:]), ("a", "b", "c", "d")))
    made.served.start()
    yield made
    made.served.stop()


def ask(service: Service, method: str, path: str, root_path: str = "") -> httpx.Response:
    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(service.app, root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.request(method, path, headers={"X-Request-Id": "r-1"})

    return asyncio.run(once())


def paths(service: Service) -> dict[str, set[str]]:
    found = {}
    for path, methods in service.app.openapi()["paths"].items():
        name = "tiny" if path.startswith("/v2") else "door"
        found[path.replace("{name}", name).replace("{version}", "1").replace("{number}", "1")] = {
            method.upper() for method in methods
        }
    return found


def test_head_is_get_without_a_body(service):
    for path, methods in paths(service).items():
        if "GET" in methods and path != "/metrics":  # which counts
            head, get = ask(service, "HEAD", path), ask(service, "GET", path)

            assert (head.status_code, head.headers, head.content) == (get.status_code, get.headers, b"")


@pytest.mark.parametrize("name", ["version", "name", "nonsense"])
def test_a_parameter_that_a_route_does_not_have_is_refused_by_all_of_them(service, name):
    for path, methods in paths(service).items():
        for method in methods:
            response = ask(service, method, f"{path}?{name}=1")

            assert response.status_code == 400, (method, path)
            assert f"unknown parameter '{name}' of {path}" in response.json()["error"]


def test_a_405_says_what_is_allowed(service):
    for path, methods in paths(service).items():
        expected = methods | ({"HEAD"} if "GET" in methods else set())
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - methods:
            response = ask(service, method, path)

            assert (response.status_code, set(response.headers["Allow"].split(", "))) == (405, expected), path


@pytest.mark.parametrize("path", ["/health", "/healthz", "/livez"])
def test_liveness_goes_by_every_usual_name(service, path):
    assert ask(service, "GET", path).json() == {"live": True}


def test_the_root_says_what_this_is_and_every_link_leads_somewhere(service):
    about = ask(service, "GET", "/").json()

    assert about["version"] == __version__
    assert all(ask(service, "GET", link).status_code == 200 for link in about.values() if link.startswith("/"))


@pytest.mark.parametrize("path", ["/tta/v2/health/ready", "/v2/health/ready"])
def test_behind_a_proxy_paths_are_found_with_and_without_its_own(service, path):
    assert ask(service, "GET", path, "/tta").status_code == 200


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_an_address_may_be_one_of_ipv6():
    try:
        with _bound("::1", 0) as address:
            assert address.getsockname()[0] == "::1"
    except ValueError as error:
        pytest.skip(str(error))  # a machine without its loopback address


@pytest.mark.parametrize("root_path", ["", "/tta"])
def test_a_path_is_said_as_it_was_asked_for(service, root_path):
    unknown, parameter = (
        ask(service, "GET", f"{root_path}/v1/nowhere", root_path),
        ask(service, "GET", f"{root_path}/v2?a=1", root_path),
    )

    assert unknown.json()["error"] == "no such path '/v1/nowhere'; see /docs"
    assert "unknown parameter 'a' of /v2;" in parameter.json()["error"]
