"""Snapshots, and states as files, over HTTP."""

import pytest

from tests.tta_server.api.operators import ANN, ROWS, lines, taught
from tests.tta_server.calls import digest, infer, names, noise, settled, stream


def test_a_snapshot_brings_back_exactly_what_it_held_under_a_new_version(client):
    taught(client, "door")
    before, images = digest(client, "door"), noise(1)
    expected = infer(client, "door", images)["outputs"]
    taken = client.post("/v1/streams/door/snapshots", json={"note": "before the storm"}, headers=ANN)
    infer(client, "door", noise(ROWS, 1))
    version = settled(client, "door", ROWS)["state_version"]
    assert digest(client, "door") != before

    asked = {"snapshot": taken.json()["id"], "reason": "the storm is over"}
    about = client.post("/v1/streams/door/restore", json=asked, headers=ANN).json()

    assert taken.status_code == 201
    assert about["state_version"] == version + 1
    assert digest(client, "door") == before
    assert infer(client, "door", images)["outputs"] == expected
    (kept,) = client.get("/v1/streams/door/snapshots").json()["snapshots"]
    assert (kept["id"], kept["note"]) == (taken.json()["id"], "before the storm")
    written = {line["verdict"]: line for line in reversed(lines(client, "door"))}
    assert written["snapshot"]["extra"] == written["restore"]["extra"] == {"snapshot": kept["id"]}
    assert (written["restore"]["who"], written["restore"]["reason"]) == ("ann", "the storm is over")


def test_an_exported_state_makes_another_stream_answer_alike(client):
    taught(client, "door")
    exported = client.get("/v1/streams/door/state")
    client.post("/v1/streams", json={"name": "gate"}).raise_for_status()

    about = client.put("/v1/streams/gate/state", content=exported.content).json()

    assert exported.headers["content-type"] == "application/octet-stream"
    assert exported.headers["content-disposition"] == 'attachment; filename="door.safetensors"'
    assert (about["state_version"], about["steps"]) == (1, 3)
    assert digest(client, "gate") == digest(client, "door")
    images = noise(1)
    assert infer(client, "gate", images)["outputs"] == infer(client, "door", images)["outputs"]


def test_an_imported_state_opens_the_stream_that_it_is_for(client):
    taught(client, "door")
    exported = client.get("/v1/streams/door/state").content

    response = client.put("/v1/streams/moved/state", content=exported, headers=ANN)

    assert response.status_code == 200, response.text
    assert response.json() == stream(client, "moved")
    assert digest(client, "moved") == digest(client, "door")
    images = noise(1)
    assert infer(client, "moved", images)["outputs"] == infer(client, "door", images)["outputs"]
    assert (lines(client, "moved")[0]["verdict"], lines(client, "moved")[0]["who"]) == ("import", "ann")


@pytest.mark.parametrize("content", [b"", b"not a state"])
def test_a_file_that_is_no_state_opens_no_stream(client, content):
    before = lines(client)

    assert client.put("/v1/streams/nobody/state", content=content).status_code == 400

    assert names(client) == []
    assert lines(client) == before


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped", "another adapter"])
def test_a_file_that_is_no_state_of_this_stream_is_refused_and_changes_nothing(client, damage):
    taught(client, "door")
    client.post("/v1/streams", json={"name": "gate", "adapter": {"name": "bn"}}).raise_for_status()
    good = client.get("/v1/streams/door/state").content
    files = {
        "empty": b"",
        "text": b"not a state",
        "cut": good[:-5],
        "flipped": good[:8] + bytes([good[8] ^ 1]) + good[9:],
        "another adapter": client.get("/v1/streams/gate/state").content,
    }
    before, version = digest(client, "door"), stream(client, "door")["state_version"]

    response = client.put("/v1/streams/door/state", content=files[damage])

    assert response.status_code == 400, response.text
    assert len(response.json()["error"]) < 300
    assert (digest(client, "door"), stream(client, "door")["state_version"]) == (before, version)


def test_a_file_beyond_the_limit_on_bodies_is_not_read(client):
    client.post("/v1/streams", json={"name": "door"}).raise_for_status()

    assert client.put("/v1/streams/door/state", content=bytes(32 * 2**20 + 1)).status_code == 413
