"""Streams are listed, opened, changed, switched and deleted over HTTP; the log tells it."""

import pytest

from tests.server import running
from tests.tta_server.api.operators import ANN, CONFIG, ROWS, lines, taught
from tests.tta_server.calls import digest, glyph_images, infer, metric, names, noise, pages, stream


# Listing
def test_every_stream_is_on_exactly_one_page_and_pages_are_in_order(client):
    made = [f"s{number:02d}" for number in range(7)]
    for name in reversed(made):
        client.post("/v1/streams", json={"name": name}).raise_for_status()
    client.post("/v1/streams/s03/evict").raise_for_status()

    for limit in (1, 3, 7, 8):
        assert [each["name"] for each in pages(client, limit=limit)] == made


def test_a_list_holds_only_what_is_asked_for(client):
    taught(client, "learnt")
    client.post("/v1/streams", json={"name": "still", "mode": "off"}).raise_for_status()
    client.post("/v1/streams", json={"name": "parked"}).raise_for_status()
    client.post("/v1/streams/parked/evict").raise_for_status()

    def found(**asked: object) -> list[str]:
        return [each["name"] for each in pages(client, **asked)]

    assert found(mode="off") == ["still"]
    assert found(mode="after", limit=1) == ["learnt", "parked"]
    assert found(answers="source") == ["still"]
    assert found(answers="adapted", in_memory=True) == ["learnt"]
    assert found(in_memory=False) == ["parked"]
    assert found(frozen=True) == []
    assert found(frozen=False) == ["learnt", "parked", "still"]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ("limit=0", "limit: Input should be greater than or equal to 1"),
        ("limit=1001", "limit"),
        ("mode=on", "mode: Input should be 'after', 'inline', 'shadow' or 'off', got 'on'"),
        ("answers=both", "answers"),
        ("frozen=maybe", "frozen"),
        ("drift=high", "unknown parameter 'drift'"),
    ],
)
def test_a_list_that_cannot_be_made_is_refused(client, asked, reason):
    response = client.get(f"/v1/streams?{asked}")

    assert (response.status_code, response.json()["code"]) == (400, "bad_request")
    assert reason in response.json()["error"]


# Opening, changing, deleting
def test_a_stream_can_be_opened_once(client):
    asked = {"name": "door", "mode": "shadow", "adapter": {"name": "eata", "settings": {"fisher_alpha": 0}}}

    first, second = (client.post("/v1/streams", json=asked, headers=ANN) for _ in range(2))

    assert (first.status_code, second.status_code, second.json()["code"]) == (201, 409, "conflict")
    assert first.json() == stream(client, "door")
    about = {key: first.json()[key] for key in ("mode", "adapter", "state_version", "answers")}
    assert about == {"mode": "shadow", "adapter": "eata", "state_version": 0, "answers": "source"}
    assert (lines(client, "door")[0]["verdict"], lines(client, "door")[0]["who"]) == ("create", "ann")


def test_beyond_the_limit_no_stream_is_opened_by_an_operator_or_a_request(client):
    for number in range(40):
        client.post("/v1/streams", json={"name": f"s{number}"}).raise_for_status()

    opened = client.post("/v1/streams", json={"name": "one-more"})
    asked = client.post("/predict", content=b"", headers={"X-Stream-Id": "one-more"})

    assert (opened.status_code, opened.headers["Retry-After"]) == (429, "10")
    assert asked.status_code >= 400
    assert "one-more" not in names(client)


def test_a_shadow_learns_and_answers_as_the_frozen_model(client):
    client.post("/v1/streams", json={"name": "door", "mode": "shadow"}).raise_for_status()

    taught(client, "door")

    images = glyph_images(0, ROWS)
    assert infer(client, "door", images)["outputs"] == infer(client, "reference", images)["outputs"]
    client.patch("/v1/streams/door", json={"mode": "after"}).raise_for_status()
    assert infer(client, "door", images)["outputs"] != infer(client, "reference", images)["outputs"]


def test_settings_that_keep_the_layout_keep_what_was_learnt(client):
    taught(client, "door")
    before = digest(client, "door")

    about = client.patch("/v1/streams/door", json={"adapter": {"name": "tent", "settings": {"lr": 0.001}}}).json()

    assert (about["steps"], digest(client, "door")) == (3, before)
    assert lines(client, "door")[0]["extra"]["settings"]["lr"] == 0.001


def test_another_adapter_starts_from_the_source(client):
    taught(client, "door")

    about = client.patch("/v1/streams/door", json={"adapter": {"name": "bn"}}).json()

    assert (about["adapter"], about["steps"]) == ("bn", 0)
    images = glyph_images(0, ROWS)
    assert infer(client, "door", images)["outputs"] == infer(client, "reference", images)["outputs"]


def test_a_deleted_stream_is_gone_and_a_second_deletion_finds_nothing(client):
    taught(client, "door")
    client.post("/v1/streams/door/snapshots").raise_for_status()
    images = metric(client, 'tta_images_total{model="glyphs",stream="door"}')

    statuses = [client.delete("/v1/streams/door").status_code for _ in range(2)]

    assert images == 3 * ROWS
    assert statuses == [204, 404]
    assert client.get("/v1/streams/door").status_code == 404
    assert 'stream="door"' not in client.get("/metrics").text
    assert lines(client, "door")[0]["verdict"] == "delete"
    assert infer(client, "door", glyph_images(0, ROWS))["parameters"]["state_version"] == 0
    assert client.get("/v1/streams/door/snapshots").json() == {"snapshots": []}


def test_an_evicted_stream_goes_on_where_it_was(client):
    taught(client, "door")
    before, images = digest(client, "door"), glyph_images(0, 1)
    expected = infer(client, "door", images)["outputs"]

    assert client.post("/v1/streams/door/evict").status_code == 204
    assert client.post("/v1/streams/door/evict").status_code == 404

    assert [each["in_memory"] for each in pages(client)] == [False]
    assert infer(client, "door", images)["outputs"] == expected
    assert digest(client, "door") == before


# All at once
def test_one_switch_has_the_frozen_model_answer_everywhere_and_another_undoes_it(client):
    images = noise(1)
    for name in ("a", "b", "parked"):
        taught(client, name)
    adapted = [infer(client, name, images)["outputs"] for name in ("a", "b", "parked")]
    client.post("/v1/streams/parked/evict").raise_for_status()

    infer(client, "reference", images)
    off = client.patch("/v1/streams", json={"mode": "off", "reason": "what is going on?"}, headers=ANN).json()

    frozen = infer(client, "reference", images)["outputs"]
    assert off == {"mode": "off", "streams": {"off": 4}, "unread": 0, "replica": ""}
    assert [infer(client, name, images)["outputs"] for name in ("a", "b", "parked", "new")] == [frozen] * 4
    assert {each["mode"] for each in pages(client)} == {"off"}
    everywhere = lines(client)[0]
    assert (everywhere["stream"], everywhere["who"], everywhere["extra"]) == ("*", "ann", {"mode": "off"})

    back = client.patch("/v1/streams", json={"mode": "configured", "reason": "it was the lamp"}).json()

    assert back == {"mode": "configured", "streams": {"after": 4, "off": 1}, "unread": 0, "replica": ""}
    assert stream(client, "reference")["mode"] == "off"
    assert [infer(client, name, images)["outputs"] for name in ("a", "b", "parked")] == adapted


def test_what_is_set_for_one_stream_after_a_switch_wins(client):
    client.patch("/v1/streams", json={"mode": "off", "reason": "all"}).raise_for_status()

    infer(client, "one", glyph_images(0, 1))
    client.patch("/v1/streams/one", json={"mode": "after"}).raise_for_status()
    client.post("/v1/streams", json={"name": "two", "mode": "shadow"}).raise_for_status()

    assert {name: stream(client, name)["mode"] for name in ("one", "two")} == {"one": "after", "two": "shadow"}
    infer(client, "three", glyph_images(0, 1))
    assert stream(client, "three")["mode"] == "off"


# The log
def test_the_log_tells_what_happened_newest_first(client):
    taught(client, "door", 1)
    client.post("/v1/streams/door/reset", json={"reason": "a new lens"}, headers=ANN).raise_for_status()

    newest = lines(client, "door")

    assert [line["verdict"] for line in newest[:2]] == ["reset", "commit"]
    assert (newest[0]["who"], newest[0]["reason"]) == ("ann", "a new lens")
    assert [line["version_after"] for line in newest[:2]] == [2, 1]
    assert lines(client)[0] == newest[0]
    assert len(client.get("/v1/audit?limit=1").json()["entries"]) == 1


def test_who_asks_is_the_peer_unless_a_trusted_proxy_says_who_it_is(client):
    client.post("/v1/streams", json={"name": "door"}).raise_for_status()
    for actor in ({}, {"X-Actor": "ann\tb" + "x" * 100}):
        client.post("/v1/streams/door/reset", headers=actor).raise_for_status()

    assert [line["who"] for line in lines(client, "door")[1::-1]] == ["127.0.0.1", "annb" + "x" * 60]


def test_a_server_without_storage_has_its_log_in_memory_and_says_so(tmp_path):
    with running(tmp_path, CONFIG) as server:
        server.client.post("/v1/streams", json={"name": "door"}).raise_for_status()
        server.client.post("/v1/streams/door/reset", json={"reason": "a test"}).raise_for_status()

        every, one = (server.client.get(path).json() for path in ("/v1/audit", "/v1/streams/door/audit"))

        assert (every["kept"], one["kept"]) == ("memory", "memory")
        assert [line["verdict"] for line in one["entries"]] == ["reset", "create"]
        assert every["entries"] == one["entries"]
        assert server.client.get("/v1/streams/nobody/audit").status_code == 404
