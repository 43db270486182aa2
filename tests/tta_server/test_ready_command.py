"""`tta-server ready` finds a server that listens everywhere, whatever addresses the machine has."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tta_server import ready_command
from tta_server.ready_command import trouble_of
from tta_server.settings_door import ServerSettings


class Ready(BaseHTTPRequestHandler):
    """Answers that it is ready, or not."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"the server is starting")

    def log_message(self, *_: object) -> None:
        pass


class Starting(Ready):
    status = 503


@contextmanager
def answering(kind: type[Ready]) -> Iterator[int]:
    """Have 127.0.0.1 alone answer, as in a container without IPv6; returns the port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("host", ["::", "0.0.0.0", "127.0.0.1"])
def test_who_listens_everywhere_is_found_without_an_address_of_ipv6(host):
    with answering(Ready) as port:
        assert trouble_of(ServerSettings(host=host, port=port)) == ""
    with answering(Starting) as port:
        assert trouble_of(ServerSettings(host=host, port=port)) == "not ready: the server is starting"
    assert trouble_of(ServerSettings(host=host, port=port)).startswith("no server answers: ")


def test_an_address_that_answers_is_the_last_one_asked(monkeypatch):
    monkeypatch.setitem(ready_command._HERE, "::", ("127.0.0.1", "no host"))

    with answering(Starting) as port:
        assert trouble_of(ServerSettings(host="::", port=port)) == "not ready: the server is starting"
