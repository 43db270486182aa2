"""What nobody expected: the log says it once, and whoever asked can go on with the same connection."""

from http.client import HTTPConnection
from pathlib import Path

import httpx

from tests.server import running
from tests.tta_server.calls import UNGUARDED, glyph_images, infer


def test_an_error_is_logged_once_and_the_connection_stays(tmp_path: Path):
    kept = tmp_path / "kept"
    config = {"model": {"device": "cpu"}, "guard": UNGUARDED, "storage": {"url": str(kept), "save_every_s": 0.0}}
    with running(tmp_path, config) as server:
        infer(server.client, "door", glyph_images(0, 1))
        (kept / "audit").mkdir(exist_ok=True)
        (kept / "audit").rename(tmp_path / "away")
        (kept / "audit").write_bytes(b"")  # what should be a folder is a file
        url = httpx.URL(server.url)
        connection = HTTPConnection(url.host, url.port, timeout=60)
        connection.request("GET", "/v1/streams/door/audit")
        answer = connection.getresponse()
        said = answer.read()
        socket = connection.sock

        assert (answer.status, b'"code":"internal"' in said) == (500, True)
        assert answer.getheader("Connection") is None
        connection.request("GET", "/v2/health/live")
        assert connection.getresponse().status == 200
        assert connection.sock is socket is not None
        connection.close()

    log = (tmp_path / "server.log").read_text()
    assert log.count("Traceback (most recent call last)") == 1
    assert log.count("GET /v1/streams/door/audit failed") == 1
    assert "uvicorn" not in log.partition("failed")[0]
