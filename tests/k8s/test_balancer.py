"""HAProxy with the configuration that a cluster gives it, before a server that answers everything."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from k8s.alerts.rules import ALERTS
from tests.k8s.conftest import answers, free_port
from tests.k8s.manifests import K8S
from tests.replicas.balancer import CONFIG, balancing, started
from tta_server.serve import _has_ipv6


class Willing(BaseHTTPRequestHandler):
    """Says 200 to whatever is asked."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def willing() -> Iterator[str]:
    """Start a server that answers everything, and give its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Willing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def balancer(tmp_path_factory, poll) -> Iterator[str]:
    """Start one before one server, and give its address."""
    port = free_port()
    with willing() as server, balancing(port, {"one": server}, tmp_path_factory.mktemp("balancer")):
        poll(lambda: answers(f"http://127.0.0.1:{port}/balancer/ready"), 20)
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("path", ["/v1/hand-over", "/v1/hand-over?a=b", "/v1/hand%2Dover", "/v1/%68and-over"])
def test_nobody_asks_a_replica_to_hand_over_through_the_balancer(balancer, path):
    assert httpx.post(f"{balancer}/v1/labels", trust_env=False).status_code == 200

    assert httpx.post(f"{balancer}{path}", trust_env=False).status_code == 404


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
def test_the_balancer_listens_on_ipv4_and_on_the_pods_own_address_at_both_doors(tmp_path, poll):
    http, grpc, server = free_port(), free_port(), {"one": f"127.0.0.1:{free_port()}"}

    with balancing(http, server, tmp_path, grpc, server, pod_ip="::1"):
        poll(lambda: answers(f"http://127.0.0.1:{http}/balancer/live"), 20)

        assert answers(f"http://[::1]:{http}/balancer/live")
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, grpc), 20).close()


def test_prometheus_reads_how_many_replicas_are_there_and_the_alert_knows_them_by_that_name(tmp_path, poll):
    (empty,) = [alert.expr for alert in ALERTS if alert.name == "TtaBalancerEmpty"]
    port, metrics_port = free_port(), free_port()
    metrics = f"http://127.0.0.1:{metrics_port}/metrics"

    def there() -> list[float]:
        text = httpx.get(metrics, trust_env=False).text
        return [float(line.split()[1]) for line in text.splitlines() if line.startswith(empty.removesuffix(" == 0"))]

    with willing() as one, ExitStack() as stack:
        two = stack.enter_context(willing())
        with balancing(port, {"one": one, "two": two}, tmp_path, metrics_port=metrics_port):
            poll(lambda: answers(metrics) and there() == [2], 20)
            stack.close()
            poll(lambda: there() == [1], 20)

    with balancing(port, {"one": one, "two": two}, tmp_path, metrics_port=metrics_port):
        poll(lambda: answers(metrics) and there() == [0], 20)


@pytest.mark.parametrize("pod_ip", ["10.1.2.3", "fd00::2"])
def test_the_balancer_takes_its_configuration(tmp_path, pod_ip):
    log = tmp_path / "log"

    checked = started(log, "-c", "-f", str(K8S / "components/replicas/haproxy.cfg"), pod_ip=pod_ip)

    assert checked.wait(30) == 0, log.read_text()
    assert log.read_text() == "Configuration file is valid\n"  # and no warning


def test_names_that_nobody_answers_for_stay_known():
    held = dict(re.findall(r"^    hold (\w+) (\w+)$", CONFIG, re.MULTILINE))

    assert {held[trouble] for trouble in ("timeout", "refused", "other")} == {"1h"}
    assert held["valid"] == "5s"  # a replica that comes back has another address


def test_whatever_listens_on_ipv4_listens_on_the_pods_own_address_too():
    binds = re.findall(r"^ +bind (.*)$", CONFIG, re.MULTILINE)

    everywhere = [rest for rest in binds if rest.startswith(":")]
    assert everywhere
    assert sorted(binds) == sorted([*everywhere, *(re.sub(r"^(:\d+)", r'"${POD_IP}\1"', rest) for rest in everywhere)])
