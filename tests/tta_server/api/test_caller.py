"""Who calls, by what the request says."""

import pytest
from starlette.requests import Request

from tta_server.addresses import network_of
from tta_server.api.caller import Callers
from tta_server.errors import BadRequest
from tta_server.runtime.commands.desk import Who


def request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw, "client": ("10.0.0.7", 4242)})


PROXIES = ("10.0.0.0/8", "::1/128")


def test_a_client_is_its_address_whatever_it_says():
    forged = request(x_client="forged", x_forwarded_for="9.9.9.9", x_actor="ann")

    for callers in (Callers(), Callers("X-Client"), Callers("X-Client", ["192.0.2.0/24"])):
        assert (callers.client(forged), callers.who(forged).name) == ("10.0.0.7", "10.0.0.7")


def test_a_trusted_proxy_names_clients_in_the_configured_header():
    callers = Callers("X-Client", PROXIES)

    assert callers.client(request(x_client="camera 7")) == "camera 7"
    assert callers.client(request()) == "10.0.0.7"


@pytest.mark.parametrize(
    ("sent", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("1.1.1.1, 192.0.2.1", "192.0.2.1"),  # what the client says itself stands first
        ("192.0.2.1, 10.1.1.1, 10.2.2.2", "192.0.2.1"),
        ("10.1.1.1", "10.0.0.7"),
        ("192.0.2.1:40000", "192.0.2.1"),
        ("192.0.2.1, 10.1.1.1:80", "192.0.2.1"),
        ("[2001:DB8::1]:40000, [::1]", "2001:db8::1"),
        ("2001:db8:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("192.0.2.1, ::ffff:10.1.1.1", "192.0.2.1"),
        ("camera", "10.0.0.7"),
        ("192.0.2.1, camera", "10.0.0.7"),  # what a proxy says that knows no address is not looked behind
        ("engine", "10.0.0.7"),
        (" , ", "10.0.0.7"),
    ],
)
def test_the_client_is_the_last_whom_no_trusted_proxy_is(sent, client):
    assert Callers("", PROXIES).client(request(x_forwarded_for=sent)) == client


def test_a_connection_without_an_address_has_a_name_in_the_log():
    nobody = Request({"type": "http", "headers": [], "client": None})

    assert Callers("", PROXIES).client(nobody) == ""
    assert Callers("", PROXIES).who(nobody).name == "unknown"


@pytest.mark.parametrize(
    ("sent", "name"),
    [("ann", "ann"), ("a\tn\x1bn", "ann"), ("x" * 100, "x" * 64), ("  ", "10.0.0.7"), ("\x00", "10.0.0.7")],
)
def test_an_actor_is_printable_and_short(sent, name):
    assert Callers("", PROXIES).who(request(x_actor=sent), "why") == Who(name, "why")


@pytest.mark.parametrize("name", ["engine", "Engine", " en\x00gine ", "engine\xa0"])
@pytest.mark.parametrize("header", ["x_actor", "x_client"])
def test_nobody_goes_by_the_servers_own_name(name, header):
    with pytest.raises(BadRequest, match="what the audit log calls the server itself"):
        Callers("X-Client", PROXIES).who(request(**{header: name}))


@pytest.mark.parametrize("proxies", [PROXIES, ["::ffff:10.0.0.0/104"]])
@pytest.mark.parametrize("peer", ["10.0.0.7", "::ffff:10.0.0.7"])
def test_an_address_is_the_same_however_it_is_written(proxies, peer):
    callers = Callers("", [str(network_of(each)) for each in proxies])
    by_proxy = Request(request(x_forwarded_for="9.9.9.9").scope | {"client": (peer, 4242)})

    assert callers.client(by_proxy) == "9.9.9.9"
