"""One stream whose file is damaged, and a server that is not."""

from pathlib import Path

from tests.server import running
from tests.tta_server.calls import INFER, UNGUARDED, body, glyph_images, infer, metric, pages

ROWS = 4


def test_a_server_starts_and_serves_beside_a_stream_that_it_cannot_read(tmp_path: Path):
    config = {
        "model": {"device": "cpu"},
        "engine": {"window_rows": ROWS},
        "guard": UNGUARDED,
        "storage": {"url": str(tmp_path / "kept"), "save_every_s": 0.0},
    }
    with running(tmp_path, config) as server:
        for name in ("bad", "good"):
            infer(server.client, name, glyph_images(0, 1))
            server.client.post(f"/v1/streams/{name}/evict").raise_for_status()
    (state,) = (tmp_path / "kept/streams/bad").glob("state-*")
    state.write_bytes(damage := state.read_bytes()[:-1])

    with running(tmp_path, config) as server:
        client = server.client
        trouble = {each["name"]: each["trouble"] for each in pages(client)}
        asked = client.post(INFER, content=body(glyph_images(0, 1)), headers={"X-Stream-Id": "bad"})
        refused = client.get("/v1/streams/bad")
        log = client.get("/v1/streams/bad/audit").json()["entries"]

        assert infer(client, "good", glyph_images(0, 1))["parameters"]["state_version"] == 0
        assert client.get("/v2/health/ready").status_code == 200
        assert metric(client, "tta_streams_set_aside{") == 1
        assert "none of its files can be read" in trouble["bad"]
        assert not trouble["good"]
        for response in (asked, refused):
            assert (response.status_code, response.json()["code"]) == (500, "set_aside")
        assert log[0]["verdict"] == "aside"
        assert state.read_bytes() == damage

        client.delete("/v1/streams/bad").raise_for_status()
        assert infer(client, "bad", glyph_images(0, 1))["parameters"]["state_version"] == 0
