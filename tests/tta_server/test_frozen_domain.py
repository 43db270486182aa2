"""A domain that the guard has switched off, as an operator meets it: over HTTP, at the terminal, in a report."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.server import Running, running
from tests.tta_server.calls import FRESH, glyph_images, infer, stream, until
from tta_server.cli import main
from tta_server.evaluate.corruptions import corrupt

ROWS = 16
CONFIG = {
    "model": {"device": "cpu"},
    "engine": {"max_rows": ROWS, "window_rows": ROWS},
    "adapter": {"name": "tent", "settings": {"lr": 10.0}},
    "guard": {
        "canary_every": 1,
        "max_update": 100.0,
        "max_distance": 100.0,
    },  # a reckless step is taken, and taken back
    "domains": {"max": 16},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("frozen"), CONFIG) as started:
        yield started


def listed(client: httpx.Client, wanted: str) -> list[str]:
    return [each["name"] for each in client.get(f"/v1/streams?{wanted}").raise_for_status().json()["streams"]]


def shown(client: httpx.Client, family: str) -> list[float]:
    """Return what a gauge says of the stream."""
    lines = client.get("/metrics", headers=FRESH).text.splitlines()
    return [float(line.split()[-1]) for line in lines if line.startswith(family + "{") and 'stream="door"' in line]


def gauges(client: httpx.Client) -> list[list[float]]:
    families = ("tta_stream_frozen", "tta_serving_source", "tta_stream_at_home", "tta_prediction_diversity_ratio")
    return [shown(client, family) for family in families]


def test_an_operator_sees_that_a_domain_is_frozen_why_and_what_answers_and_thaws_it(
    server, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "200")
    client, noisy = server.client, corrupt(glyph_images(100, 8 * ROWS), "gaussian_noise", 5)

    def typed(*words: str) -> str:
        assert main(["streams", *words, "--url", server.url]) == 0
        return capsys.readouterr().out

    infer(client, "calm", glyph_images(0, ROWS))
    for window in range(3):
        infer(client, "door", noisy[ROWS * window : ROWS * (window + 1)])
        until(lambda count=window + 1: stream(client, "door")["restores_in_a_row"] == count)

    about = stream(client, "door")
    assert (about["domain"], about["answers"], about["source_because"]) == ("door@1", "source", "frozen")
    assert about["frozen"].startswith("taken back 3 times in a row, last because: of the canary")
    assert (listed(client, "frozen=true"), listed(client, "frozen=false")) == (["door"], ["calm"])
    assert gauges(client) == [[1], [1], [0], []]
    assert [each["name"] for each in json.loads(typed("ls", "--frozen", "--json"))] == ["door"]
    assert "the guard has switched door@1 off" in " ".join(typed("show", "door").replace("│", " ").split())
    assert "source (frozen)" in typed("domains", "door")
    home, noise = json.loads(typed("domains", "door", "--json"))
    assert (home["source_because"], noise["source_because"], noise["estimated_gain"]) == ("home", "frozen", None)
    typed("report", "door", "--out", str(tmp_path / "door.html"))
    assert "the guard has switched door@1 off" in (tmp_path / "door.html").read_text()

    infer(client, "door", glyph_images(0, ROWS))  # it comes home
    assert (stream(client, "door")["source_because"], listed(client, "frozen=true")) == ("home", [])
    assert gauges(client) == [[0], [1], [1], []]

    assert "learns again" in typed("thaw", "door", "--reason", "the lens is clean")
    infer(client, "door", noisy[:4])
    about = stream(client, "door")
    assert (about["domain"], about["frozen"], about["restores_in_a_row"]) == ("door@1", "", 0)
    assert "the lens is clean" in [each["reason"] for each in about["verdicts"]]
