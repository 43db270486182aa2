"""TLS both ways: who shows no certificate of the right CA gets no answer, over HTTP or gRPC."""

import asyncio
import json
import re
import signal
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx
import pytest
import trustme
import yaml

from load_tests.wire import connected
from tests.server import running
from tests.tta_server.calls import INFER, body, glyph_images
from tta_server.cli import main
from tta_server.client import AsyncClient, Client, infer, model_index
from tta_server.grpc_door.messages import HEALTH, message, methods

READY = "/v2/health/ready"


class Files(NamedTuple):
    """Where certificates lie: the CA's, the server's, a client's, and a client's of another CA, with their keys."""

    ca: Path
    server: tuple[Path, Path]
    client: tuple[Path, Path]
    stranger: tuple[Path, Path]
    folder: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    folder, ca, other = tmp_path_factory.mktemp("tls"), trustme.CA(), trustme.CA()

    def issued(name: str, by: trustme.CA) -> tuple[Path, Path]:
        made, certificate, key = by.issue_cert("127.0.0.1"), folder / f"{name}.pem", folder / f"{name}.key"
        made.cert_chain_pems[0].write_to_path(certificate)
        made.private_key_pem.write_to_path(key)
        return certificate, key

    ca.cert_pem.write_to_path(folder / "ca.pem")
    (folder / "empty").touch()
    return Files(folder / "ca.pem", issued("server", ca), issued("client", ca), issued("stranger", other), folder)


def showing(files: Files, pair: tuple[Path, Path] | None) -> ssl.SSLContext:
    """Return what a client asks of a server and shows to it."""
    context = ssl.create_default_context(cafile=files.ca)
    if pair:
        context.load_cert_chain(*pair)
    return context


@pytest.fixture(scope="module")
def server(files: Files) -> Iterator[tuple[str, str, str]]:
    """Yield the addresses of a server that asks for certificates: over HTTP, for operations, over gRPC."""
    certificate, key = map(str, files.server)
    tls = {"tls_certificate": certificate, "tls_key": key, "tls_client_ca": str(files.ca)}
    config = {
        "model": {"device": "cpu"},
        "limits": {"header_timeout_s": 5},
        "server": tls | {"grpc_port": 0, "admin_port": 0},
    }
    with running(files.folder, config, verify=showing(files, files.client)) as found:
        said = (files.folder / "server.log").read_text()
        assert "curl -k --cert" in said
        grpc_port, admin_port = re.findall(r"port (\d+)", said)
        yield found.url, f"https://127.0.0.1:{admin_port}", f"127.0.0.1:{grpc_port}"
    assert found.process.returncode == 0


def test_the_right_certificate_is_answered(server, files):
    url, _, _ = server
    certificate, key = files.client

    with httpx.Client(verify=showing(files, files.client)) as client:
        assert url.startswith("https://")
        assert client.get(url + READY).json() == {"ready": True}
    asked = ["curl", "-sS", "--cacert", files.ca, "--cert", certificate, "--key", key, url + READY]
    assert subprocess.run(asked, capture_output=True, check=True, text=True).stdout == '{"ready":true}'


def test_client_and_commands_show_a_certificate(server, files, monkeypatch, capsys):
    url, admin, _ = server
    monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))
    certificate, key = map(str, files.client)

    async def awaited() -> list[str]:
        async with AsyncClient(url, certificate=files.client) as client:
            return [each["state"] for each in await client.ask(model_index())]

    with Client(url, certificate=files.client) as client:
        assert client.ask(infer("glyphs", glyph_images(0, 1)))["parameters"]["stream"] == "default"
    with Client(url, tries=1) as client, pytest.raises(httpx.TransportError):
        client.ask(model_index())
    ls = ["streams", "ls", "--json", "--url", admin]
    shown = [main([*ls, "--cert", certificate, "--cert-key", key]), main(ls), main([*ls, "--cert", certificate])]

    said = capsys.readouterr()
    assert shown == [0, 3, 2]
    assert [each["name"] for each in json.loads(said.out)] == ["default"]
    assert "--cert and --cert-key are given together" in said.err
    assert asyncio.run(awaited()) == ["READY"]
    assert main([*ls, "--cert", key, "--cert-key", key]) == 2
    assert "are no certificate and its key in PEM" in capsys.readouterr().err


def test_a_health_check_speaks_tls_as_the_configuration_says(server, files, tmp_path, capsys):
    url, _, _ = server
    certificate, key = map(str, files.server)

    def status(**tls: str) -> int:
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump({"server": tls | {"port": int(url.rpartition(":")[2])}}))
        return main(["ready", "--config", str(config)])

    tls = {"tls_certificate": certificate, "tls_key": key}
    assert status(**tls, tls_client_ca=str(files.ca)) == 0
    assert capsys.readouterr() == ("", "")
    assert [status(**tls), status()] == [1, 1]  # without a certificate, without TLS
    assert capsys.readouterr().err.count("no server answers") == 2
    assert main(["ready", "--port", "0"]) == main(["ready", "--config", "nowhere.yaml"]) == 1


def test_no_certificate_a_wrong_one_a_client_of_another_ca_and_plain_text_get_no_answer(server, files):
    url, admin, _ = server
    wrong = ssl.create_default_context(cafile=files.stranger[0])  # expects a server of another CA
    tries = [showing(files, None), showing(files, files.stranger), wrong]

    for context in tries:
        with httpx.Client(verify=context) as client, pytest.raises(httpx.TransportError):
            client.get(url + READY)
        with httpx.Client(verify=context) as client, pytest.raises(httpx.TransportError):
            client.get(admin + READY)
    with pytest.raises(httpx.TransportError):
        httpx.get(url.replace("https", "http") + READY)


def test_the_end_waits_for_no_client_that_is_idle(files, tmp_path):
    certificate, key = map(str, files.server)
    config = {"model": {"device": "cpu"}, "server": {"tls_certificate": certificate, "tls_key": key}}

    with httpx.Client(verify=showing(files, None)) as idle:
        with running(tmp_path, config, verify=showing(files, None)) as found:
            assert idle.get(found.url + READY).is_success

        assert found.process.returncode == 0
        assert "exceeded" not in (tmp_path / "server.log").read_text(), "as uvicorn says once its time for that is over"


def test_a_connection_without_a_handshake_is_not_waited_for(server):
    url, _, _ = server

    with connected(url) as connection:
        connection.settimeout(30)  # uvicorn alone would wait for 60 s

        assert connection.recv(1) == b""


def test_each_port_answers_what_is_its_own(server, files):
    url, admin, _ = server

    with httpx.Client(verify=showing(files, files.client)) as client:
        for path, on_main, on_admin in ((READY, 200, 200), ("/metrics", 404, 200), ("/v1/streams", 404, 200)):
            assert (client.get(url + path).status_code, client.get(admin + path).status_code) == (on_main, on_admin)
        asked = [client.post(each + INFER, content=body(glyph_images(0, 1))) for each in (url, admin)]
    assert [response.status_code for response in asked] == [200, 404]
    assert "which is for operations (server.admin_port)" in asked[1].json()["error"]


@pytest.mark.parametrize("public", [False, True])
def test_a_certificate_that_a_browser_shows_by_itself_is_no_key(files, tmp_path, public):
    certificate, key = map(str, files.server)
    tls = {"tls_certificate": certificate, "tls_key": key, "tls_client_ca": str(files.ca)}
    config = {"model": {"device": "cpu"}, "server": tls, "auth": {"insecure_public": public}}
    with running(tmp_path, config, verify=showing(files, files.client)) as started:
        plain = started.url.replace("https", "http")

        asked = [started.client.post("/v1/streams", headers={"origin": origin}) for origin in (started.url, plain)]
        named = started.client.get("/livez", headers={"host": "tta.example"})

    assert [response.status_code for response in asked] == [400, 403]  # the first for its body
    assert named.status_code == (200 if public else 403)


def test_grpc_asks_for_the_same_certificate(server, files):
    _, _, address = server

    def check(pair: tuple[Path, Path] | None) -> object:
        certificate, key = (path.read_bytes() for path in pair) if pair else (None, None)
        credentials = grpc.ssl_channel_credentials(files.ca.read_bytes(), key, certificate)
        with grpc.secure_channel(address, credentials) as channel:
            ask = channel.unary_unary(
                f"/{HEALTH}/Check",
                request_serializer=lambda asked: asked.SerializeToString(),
                response_deserializer=methods(HEALTH)["Check"][1].FromString,
            )
            return ask(message("grpc.health.v1.HealthCheckRequest")(), timeout=20).status

    assert check(files.client) == 1
    for pair in (None, files.stranger):
        with pytest.raises(grpc.RpcError):
            check(pair)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tls_key": None}, "tls_certificate and tls_key are set together"),
        ({"tls_certificate": None, "tls_key": None, "tls_client_ca": "ca.pem"}, "which takes TLS"),
        ({"tls_certificate": "nowhere"}, "cannot be read: no such file"),
        ({"tls_key": "client.key"}, "client.key' is not the key of server.tls_certificate"),
        ({"tls_key": "empty"}, "its key in PEM without a passphrase"),
        ({"tls_key": "locked.key"}, "its key in PEM without a passphrase"),
        ({"tls_client_ca": "client.key"}, "client.key' holds no certificate in PEM"),
    ],
)
def test_files_that_do_not_serve_are_told_in_one_line_before_the_start(files, capsys, monkeypatch, changed, said):
    locked = ["openssl", "pkey", "-in", files.server[1], "-aes256", "-passout", "pass:long"]
    subprocess.run([*locked, "-out", files.folder / "locked.key"], check=True)
    tls = {"tls_certificate": "server.pem", "tls_key": "server.key"} | changed
    path = files.folder / "wrong.yaml"
    path.write_text(
        yaml.safe_dump({"server": {name: str(files.folder / file) if file else None for name, file in tls.items()}})
    )
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    status = main(["serve", "--config", str(path)])

    line = capsys.readouterr().err
    assert (status, line.count("\n")) == (2, 1)
    assert said in line
