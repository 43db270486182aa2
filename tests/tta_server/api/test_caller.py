"""Who calls, by what the request says."""

import pytest
from starlette.requests import Request

from tta_server.api.caller import Callers


def request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw, "client": ("10.0.0.7", 4242)})


def test_a_client_is_its_address():
    assert Callers().client(request(x_client="forged")) == "10.0.0.7"


def test_behind_a_proxy_a_client_is_what_the_configured_header_says():
    callers = Callers("X-Client")

    assert callers.client(request(x_client="camera 7")) == "camera 7"
    assert callers.client(request()) == "10.0.0.7"


def test_a_connection_without_an_address_has_a_name_in_the_log():
    nobody = Request({"type": "http", "headers": [], "client": None})

    assert Callers().client(nobody) == ""
    assert Callers().who(nobody).name == "unknown"


@pytest.mark.parametrize(
    ("sent", "name"),
    [("ann", "ann"), ("a\tn\x1bn", "ann"), ("x" * 100, "x" * 64), ("  ", "10.0.0.7"), ("\x00", "10.0.0.7")],
)
def test_an_actor_is_printable_and_short(sent, name):
    assert Callers().who(request(x_actor=sent), "why") == (name, "why")
