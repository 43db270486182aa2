"""What a real server's log says from its start to its end, in both forms."""

import json

import httpx

from tests.server import running
from tests.tta_server.calls import glyph_images, infer, metric, until
from tests.tta_server.pictures import png
from tests.tta_server.receiver import receiving

CONFIG = {"model": {"device": "cpu"}}


def exercise(client: httpx.Client) -> None:
    infer(client, "door", glyph_images(0, 4))
    client.post("/v1/streams/door/reset", json={"reason": "a test"}, headers={"X-Request-Id": "r-7"})
    for _ in range(12):
        assert client.post("/predict", content=b"secret body").status_code == 415
    assert client.post("/predict?token=hidden", content=png(), headers={"X-Stream-Id": "door"}).status_code == 400


def test_a_log_of_json_tells_start_commands_refusals_and_stop(tmp_path):
    with running(tmp_path, CONFIG | {"logging": {"format": "json", "access": True}}) as server:
        exercise(server.client)

    text = (tmp_path / "server.log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    said = [line["message"] for line in lines]
    assert said[0].startswith("started: glyphs at http://127.0.0.1:")
    assert {"bundle", "guard", "storage", "domains", "keys", "drift", "log"} <= lines[0].keys()
    assert said[-1] == "stopped"
    (reset,) = [line for line in lines if line.get("event") == "reset"]
    assert (reset["stream"], reset["request_id"], reset["who"]) == ("door", "r-7", "127.0.0.1")
    assert [line["message"] for line in lines if "bad_image" in line["message"]] == [
        "refused: bad_image (415), number 1 within a minute",
        "refused: bad_image (415), number 10 within a minute",
    ]
    assert sum(line["logger"] == "tta_server.access" and " 415" in line["message"] for line in lines) == 12
    assert not any(secret in text for secret in ("secret body", "hidden"))


def test_a_log_for_people_shows_the_table_of_what_is_on_and_a_line_for_each_event(tmp_path):
    with running(tmp_path, CONFIG) as server:
        exercise(server.client)

    text = (tmp_path / "server.log").read_text()
    assert "none, storage.url is empty" in text
    assert "none: everybody who reaches the server may do everything" in text
    assert "INFO    tta_server.streams.listeners.spoken: stream 'door', reset: a test" in text
    assert "tta_server.access" not in text


def test_somebody_is_told_of_a_restore_and_a_dead_receiver_keeps_no_server_from_stopping(tmp_path):
    with receiving([500]) as there:
        config = CONFIG | {"webhooks": {"url": there.url, "secret": "hush"}}
        with running(tmp_path, config) as server:
            exercise(server.client)
            until(lambda: metric(server.client, 'tta_webhooks_total{model="glyphs",outcome="sent"}') == 1)

        ids = {request.headers["webhook-id"] for request in there.requests}

    assert (len(there.requests), len(ids)) == (2, 1)
    assert json.loads(there.requests[-1].body)["data"]["request_id"] == "r-7"
    with running(tmp_path, CONFIG | {"webhooks": {"url": there.url}}) as server:  # nobody is there any more
        exercise(server.client)
        until(lambda: metric(server.client, 'tta_webhooks_total{model="glyphs",outcome="retried"}') >= 1)
        server.process.terminate()
        assert server.process.wait(30) == 0
    text = (tmp_path / "server.log").read_text()
    assert "webhook 'restore' did not arrive" in text
    assert "hush" not in text
