"""Domains over HTTP: a stream whose input changes keeps a state for each kind, which operators see and steer."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server import Running, running
from tests.tta_server.api.operators import ANN, lines
from tests.tta_server.calls import UNGUARDED, glyph_images, infer, metric, names, settled, stream, until
from tta_server.evaluate.corruptions import corrupt

ROWS = 16
CONFIG = {
    "server": {"trusted_proxies": ["127.0.0.1"]},
    "model": {"device": "cpu"},
    "engine": {"max_rows": ROWS, "window_rows": ROWS, "stack_rows": 0},
    "domains": {"max": 16},
    "guard": UNGUARDED,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("domains")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    """A server that tells domains apart and keeps what it learns."""
    with running(folder, CONFIG | {"storage": {"url": str(folder / "kept"), "save_every_s": 0.05}}) as started:
        yield started


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    """A client; the streams of a test are gone after it."""
    yield server.client
    for name in names(server.client):
        server.client.delete(f"/v1/streams/{name}").raise_for_status()


def noisy(start: int, count: int = ROWS):
    return corrupt(glyph_images(start, count), "gaussian_noise", 5)


def met(client: httpx.Client, name: str = "door") -> list[dict]:
    """Have a stream see what it knows, then noise that it learns from; return its domains."""
    infer(client, name, glyph_images(0, ROWS))
    infer(client, name, noisy(100))
    assert settled(client, f"{name}@1", ROWS)["steps"] == 1
    return domains(client, name)


def domains(client: httpx.Client, name: str) -> list[dict]:
    response = client.get(f"/v1/streams/{name}/domains")
    assert response.status_code == 200, response.text
    return response.json()["domains"]


def test_a_stream_that_meets_noise_has_home_and_a_domain(client):
    home, noise = met(client)

    assert (home["id"], home["images"], home["answers"], home["distance"]) == ("source", ROWS, "source", 0)
    assert (noise["id"], noise["images"], noise["steps"], noise["answers"]) == ("door@1", ROWS, 1, "adapted")
    assert (home["current"], noise["current"]) == (False, True)
    assert noise["distance"] > 1
    assert home["share"] + noise["share"] == pytest.approx(1)
    assert home["share"] < noise["share"] < 0.6
    assert stream(client, "door")["domains"] == ["door@1"]
    assert infer(client, "door", noisy(200))["parameters"]["domains"] == ",".join(["door@1"] * ROWS)
    assert names(client) == ["door"]


def test_a_domain_is_given_a_title_and_erased(client):
    met(client)

    named = client.patch("/v1/streams/door/domains/1", json={"title": "noise", "reason": "as seen"}, headers=ANN)
    gone = client.delete("/v1/streams/door/domains/1", headers=ANN)

    assert (named.status_code, named.json()["title"], gone.status_code) == (200, "noise", 204)
    assert [each["id"] for each in domains(client, "door")] == ["source"]
    told = [(line["verdict"], line["who"], line["reason"]) for line in lines(client, "door@1")]
    assert told[:2] == [("delete", "ann", ""), ("rename", "ann", "as seen")]
    assert lines(client, "door")[0]["verdict"] == "forget"
    assert metric(client, 'tta_domain_events_total{event="forgotten",model="glyphs",stream="door"') == 1
    infer(client, "door", noisy(200))
    assert [each["id"] for each in domains(client, "door")] == ["source", "door@2"]


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("POST", "/reset", "it is reset, but the files of its domains cannot be erased yet, which is tried again"),
        ("DELETE", "/domains/1", "it is gone, but its files cannot be erased yet, which is tried again"),
        ("DELETE", "", "it is gone, but its files cannot be erased yet, which is tried again"),
    ],
)
def test_who_has_a_domain_erased_hears_if_that_cannot_be_yet(client, folder, method, path, said):
    met(client)
    held = folder / "kept/streams/door@1/inputs/held.unfinished"
    until(held.parent.parent.is_dir)  # it is written a little later
    held.parent.mkdir()
    held.write_bytes(b"so that the folder cannot be removed")

    response = client.request(method, f"/v1/streams/door{path}", headers=ANN)
    held.unlink()

    assert response.status_code == 500
    assert response.json()["error"].startswith(f"{said}: ")
    until(lambda: not held.parent.parent.exists())
    if path:
        assert [each["id"] for each in domains(client, "door")] == ["source"]
    else:
        assert names(client) == []


def test_a_domain_that_is_offered_answers_elsewhere_as_at_home(client):
    met(client)
    infer(client, "gate", glyph_images(0, ROWS))

    asked = {"to": ["gate", "gate"], "reason": "the same lens"}
    response = client.post("/v1/streams/door/domains/1/offer", json=asked, headers=ANN)

    assert (response.status_code, response.json()) == (201, {"opened": ["gate@1"]})
    assert (lines(client, "door@1")[0]["verdict"], lines(client, "door@1")[0]["extra"]) == ("offer", {"to": ["gate"]})
    assert (lines(client, "gate")[0]["verdict"], lines(client, "gate")[0]["reason"]) == ("open", "the same lens")
    here, there = (infer(client, name, noisy(300)) for name in ("door", "gate"))
    assert there["parameters"]["domains"] == ",".join(["gate@1"] * ROWS)
    assert here["outputs"] == there["outputs"]


def test_a_file_of_a_domain_opens_one_and_another_file_does_not(client):
    met(client)
    exported = client.get("/v1/streams/door@1/state")

    taken = client.put("/v1/streams/new/state", content=exported.content, headers=ANN)
    refused = client.get("/v1/streams/door/state")

    assert exported.headers["content-disposition"] == 'attachment; filename="door@1.safetensors"'
    assert (taken.status_code, taken.json()["name"]) == (200, "new@1")
    assert infer(client, "new", noisy(300))["outputs"] == infer(client, "door", noisy(300))["outputs"]
    said = "stream 'door' keeps a state for each of its domains; name one: door@1"
    assert (refused.status_code, refused.json()["error"]) == (409, said)
    assert client.put("/v1/streams/door@9/state", content=exported.content).status_code == 404


def test_a_reset_forgets_all_domains(client):
    met(client)

    about = client.post("/v1/streams/door/reset", json={"reason": "a new lens"}).json()

    assert (about["domains"], about["answers"]) == ([], "source")
    assert [each["id"] for each in domains(client, "door")] == ["source"]
    assert lines(client, "door")[0]["extra"] == {"domains": ["door@1"]}


BAD = {
    "no title": ("PATCH", "/door/domains/1", {}, 400, "'title' is missing"),
    "long title": ("PATCH", "/door/domains/1", {"title": "x" * 65}, 400, "must be at most 64 printable characters"),
    "two lines": ("PATCH", "/door/domains/1", {"title": "a\nb"}, 400, "must be at most 64 printable characters"),
    "no such domain": ("PATCH", "/door/domains/7", {"title": "x"}, 404, "has no domain 7; it has door@1"),
    "no number": ("DELETE", "/door/domains/one", None, 400, "number"),
    "number 0": ("DELETE", "/door/domains/0", None, 400, "number"),
    "domain of a domain": ("GET", "/door@1/domains", None, 400, "'door@1' is a domain itself"),
    "offer for no reason": ("POST", "/door/domains/1/offer", {"to": ["gate"], "reason": " "}, 400, "say why"),
    "offer to nobody": ("POST", "/door/domains/1/offer", {"to": [], "reason": "x"}, 400, "to: "),
    "offer to a stranger": ("POST", "/door/domains/1/offer", {"to": ["gate"], "reason": "x"}, 404, "unknown stream"),
    "offer to itself": ("POST", "/door/domains/1/offer", {"to": ["door"], "reason": "x"}, 400, "has the domain"),
    "rollback": ("POST", "/door/rollback", {"reason": "x"}, 409, "keeps a state for each of its domains"),
    "snapshot": ("POST", "/door/snapshots", None, 409, "keeps a state for each of its domains"),
    "its own adapter": ("PATCH", "/door@1", {"adapter": {"name": "bn"}}, 400, "a domain learns as its stream does"),
}


def test_what_cannot_be_done_is_refused_with_the_reason_and_changes_nothing(client):
    met(client)
    before = domains(client, "door"), lines(client)

    for case, (method, path, content, status, reason) in BAD.items():
        response = client.request(method, f"/v1/streams{path}", json=content)
        assert (case, response.status_code) == (case, status), response.text
        assert reason in response.json()["error"]

    assert (domains(client, "door"), lines(client)) == before
