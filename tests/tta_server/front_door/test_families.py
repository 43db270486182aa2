"""A server told to listen on `::` answers over IPv4 and IPv6 at every door, and starts where there is no IPv6."""

import os
import re
import ssl
from collections.abc import Callable
from pathlib import Path

import grpc
import httpx
import pytest
import trustme

from tests.server import running
from tta_server.cli import main
from tta_server.grpc_door.messages import HEALTH, message, methods
from tta_server.serve import _has_ipv6

READY = "/v2/health/ready"
CONFIG = {
    "model": {"device": "cpu"},
    "server": {"host": "::", "grpc_port": 0, "admin_port": 0, "trusted_proxies": ["127.0.0.0/8"]},
    "auth": {"insecure_public": True},
}
# Python reads this first: from then on the kernel says of IPv6 what one that was started without it says.
WITHOUT_IPV6 = """
import ctypes, errno, platform, socket, struct
load, same, answer, allow, refuse = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050000 | errno.EAFNOSUPPORT
call = {"x86_64": 41, "aarch64": 198}[platform.machine()]  # socket(family, ...)
steps = [(load, 0, 0, 0), (same, 0, 3, call), (load, 0, 0, 16), (same, 0, 1, socket.AF_INET6), (answer, 0, 0, refuse)]
steps = b"".join(struct.pack("HBBI", *step) for step in [*steps, (answer, 0, 0, allow)])
held = ctypes.create_string_buffer(steps)
program = struct.pack("HP", len(steps) // 8, ctypes.addressof(held))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
"""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(authority, tmp_path_factory) -> dict[str, str]:
    """Return the settings of a server with a certificate for this machine."""
    folder, made = tmp_path_factory.mktemp("tls"), authority.issue_cert("127.0.0.1", "::1", "::")
    made.cert_chain_pems[0].write_to_path(folder / "server.pem")
    made.private_key_pem.write_to_path(folder / "server.key")
    return {"tls_certificate": str(folder / "server.pem"), "tls_key": str(folder / "server.key")}


def ports(folder: Path) -> tuple[str, ...]:
    """Return where a server says that it answers: over gRPC, and operations."""
    grpc_port, admin_port = re.findall(r"port (\d+)", (folder / "server.log").read_text(errors="replace"))
    return grpc_port, admin_port


def serves(address: str, root: bytes | None = None) -> bool:
    """Tell whether a server says over gRPC that it serves."""
    credentials = grpc.ssl_channel_credentials(root)
    with grpc.secure_channel(address, credentials) if root else grpc.insecure_channel(address) as channel:
        ask: Callable[..., object] = channel.unary_unary(
            f"/{HEALTH}/Check",
            request_serializer=lambda asked: asked.SerializeToString(),
            response_deserializer=methods(HEALTH)["Check"][1].FromString,
        )
        return ask(message("grpc.health.v1.HealthCheckRequest")(), timeout=20).status == 1


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("encrypted", [False, True])
def test_every_door_is_open_over_both(tmp_path, tls, authority, encrypted):
    root, context = authority.cert_pem.bytes(), ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    config = CONFIG | {"server": CONFIG["server"] | (tls if encrypted else {})}
    with running(tmp_path, config, verify=context) as server, httpx.Client(verify=context) as client:
        scheme, port = server.url.partition(":")[0], server.url.rpartition(":")[2]
        grpc_port, admin_port = ports(tmp_path)
        for address in ("127.0.0.1", "[::1]"):
            asked = [client.get(f"{scheme}://{address}:{each}{READY}") for each in (port, admin_port)]

            assert [response.status_code for response in asked] == [200, 200]
            assert serves(f"{address}:{grpc_port}", root if encrypted else None)
            operations, forwarded = f"{scheme}://{address}:{admin_port}", {"X-Forwarded-For": "192.0.2.1:4242"}
            client.post(f"{operations}/v1/streams", json={"name": "door"}, headers=forwarded).raise_for_status()
            client.delete(f"{operations}/v1/streams/door").raise_for_status()
        said = client.get(f"{operations}/v1/audit").json()["entries"]
    by = [entry["who"] for entry in reversed(said) if entry["verdict"] in ("create", "delete")]
    assert by == ["192.0.2.1", "127.0.0.1", "::1", "::1"]  # the proxy is one of IPv4


def test_without_ipv6_it_listens_on_ipv4_and_says_so_in_one_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_IPV6)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    with running(tmp_path, CONFIG, {"PYTHONPATH": path}, forked=False) as server:
        said = (tmp_path / "server.log").read_text()
        grpc_port, admin_port = ports(tmp_path)

        assert server.url.startswith("http://0.0.0.0:")
        assert httpx.get(f"http://127.0.0.1:{admin_port}{READY}").status_code == 200
        assert serves(f"127.0.0.1:{grpc_port}")
    assert said.count("IPv6") == 1
    assert "server.host is ::, and this system has no IPv6: listening on 0.0.0.0" in said


def test_another_address_of_ipv6_is_refused_there(monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr("tta_server.serve.socket.socket", refuse)

    assert main(["serve", "--host", "::1", "--port", "0"]) == 2
    assert "cannot listen on ::1:0: address family not supported by protocol" in capsys.readouterr().err
