"""What operators may do to streams over HTTP, and how they are told what was wrong."""

import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.server import Running, running
from tests.tta_server.calls import UNGUARDED, digest, glyph_images, infer, metric, names, noise, pages, settled, stream

ROWS = 4
CONFIG = {
    "model": {"device": "cpu"},
    "adapter": {"name": "tent", "settings": {"lr": 0.02}},
    "engine": {"max_rows": ROWS, "window_rows": ROWS, "stack_rows": 0},
    "streams": {"named": {"reference": {"mode": "off"}}, "max_streams": 40},
    "guard": UNGUARDED,
}
ANN = {"X-Actor": "ann"}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Running]:
    """A server that keeps what it learns."""
    folder = tmp_path_factory.mktemp("streams")
    with running(folder, CONFIG | {"storage": {"url": str(folder / "kept"), "save_every_s": 0.05}}) as started:
        yield started


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    """A client; the streams of a test are gone after it."""
    yield server.client
    server.client.patch("/v1/streams", json={"mode": "configured", "reason": "the test is over"}).raise_for_status()
    for name in names(server.client):
        server.client.delete(f"/v1/streams/{name}").raise_for_status()


def taught(client: httpx.Client, name: str, steps: int = 3) -> dict:
    """Have a stream learn, and return what the server says of it."""
    for step in range(steps):
        infer(client, name, glyph_images(100 + ROWS * step, ROWS))
        about = settled(client, name, ROWS)
    assert about["steps"] == steps
    return about


def lines(client: httpx.Client, name: str = "") -> list[dict]:
    """Return the audit log of a stream, or of all, newest first."""
    response = client.get(f"/v1/streams/{name}/audit" if name else "/v1/audit")
    assert response.status_code == 200, response.text
    return response.json()["entries"]


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
        ("drift=high", "unknown key 'drift'"),
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

    assert (opened.status_code, opened.headers["Retry-After"]) == (429, "1")
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


# Snapshots and files
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
    assert off == {"mode": "off", "streams": {"off": 4}}
    assert [infer(client, name, images)["outputs"] for name in ("a", "b", "parked", "new")] == [frozen] * 4
    assert {each["mode"] for each in pages(client)} == {"off"}
    everywhere = lines(client)[0]
    assert (everywhere["stream"], everywhere["who"], everywhere["extra"]) == ("*", "ann", {"mode": "off"})

    back = client.patch("/v1/streams", json={"mode": "configured", "reason": "it was the lamp"}).json()

    assert back == {"mode": "configured", "streams": {"after": 4, "off": 1}}
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


def test_who_asks_is_the_peer_unless_he_says_who_he_is(client):
    client.post("/v1/streams", json={"name": "door"}).raise_for_status()
    for actor in ({}, {"X-Actor": "ann\tb" + "x" * 100}):
        client.post("/v1/streams/door/reset", headers=actor).raise_for_status()

    assert [line["who"] for line in lines(client, "door")[1::-1]] == ["127.0.0.1", "annb" + "x" * 60]


def test_a_server_without_storage_says_that_nothing_is_kept(tmp_path):
    with running(tmp_path, CONFIG) as server:
        for path in ("/v1/audit", "/v1/streams/door/audit"):
            response = server.client.get(path)

            assert response.status_code == 404
            assert "nothing is kept: this server has no storage; set storage.url" in response.json()["error"]


# What is wrong
BAD = {
    "unknown key": ("POST", "", {"name": "x", "mod": "off"}, 400, "unknown key 'mod'"),
    "no name": ("POST", "", {}, 400, "'name' is missing"),
    "bad name": ("POST", "", {"name": "a b"}, 400, "must be 1 to 64 letters"),
    "unknown adapter": ("POST", "", {"name": "x", "adapter": {"name": "nope"}}, 400, "unknown adapter 'nope'; use one"),
    "unknown setting": (
        "POST",
        "",
        {"name": "x", "adapter": {"name": "tent", "settings": {"rate": 1}}},
        400,
        "adapter 'tent' has no setting 'rate'; it has",
    ),
    "nothing to change": ("PATCH", "/door", {}, 400, "nothing to change; give 'mode', 'adapter' or both"),
    "bad mode": ("PATCH", "/door", {"mode": "on"}, 400, "mode: Input should be 'after'"),
    "wrong value": (
        "PATCH",
        "/door",
        {"adapter": {"name": "tent", "settings": {"lr": "fast"}}},
        400,
        "adapter 'tent': lr: Input should be a valid number",
    ),
    "switch without a reason": ("PATCH", "", {"mode": "off"}, 400, "'reason' is missing"),
    "rollback without a reason": ("POST", "/door/rollback", {"version": 1}, 400, "'reason' is missing"),
    "rollback for no reason": ("POST", "/door/rollback", {"version": 1, "reason": "  "}, 400, "say why"),
    "rollback to nowhere": (
        "POST",
        "/door/rollback",
        {"version": 9, "reason": "x"},
        404,
        "no version 9; it keeps none",
    ),
    "restore without a reason": ("POST", "/door/restore", {"snapshot": "x"}, 400, "'reason' is missing"),
    "restore of nothing": ("POST", "/door/restore", {"snapshot": "x", "reason": "y"}, 404, "no snapshot 'x'"),
    "long reason": ("POST", "/door/reset", {"reason": "x" * 501}, 400, "reason: String should have at most 500"),
    "a list": ("POST", "", [], 400, "the body must be a JSON object"),
    "unknown stream": ("PATCH", "/nobody", {"mode": "off"}, 404, "unknown stream 'nobody'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_command_is_told_what_is_wrong_and_changes_nothing(client, case):
    method, path, content, status, reason = BAD[case]
    client.post("/v1/streams", json={"name": "door"}).raise_for_status()
    before = client.get("/v1/streams").json(), lines(client)

    response = client.request(method, f"/v1/streams{path}", json=content)

    assert response.status_code == status, response.text
    assert reason in response.json()["error"]
    assert response.json()["code"]
    assert (client.get("/v1/streams").json(), lines(client)) == before


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/reset"),
        ("POST", "/rollback"),
        ("POST", "/evict"),
        ("GET", "/state"),
        ("GET", "/snapshots"),
        ("POST", "/snapshots"),
        ("POST", "/restore"),
        ("GET", "/audit"),
    ],
)
def test_a_stream_that_is_not_there_is_not_found_and_not_made(client, method, path):
    bodies = {"PATCH": {"mode": "off"}, "/rollback": {"reason": "x"}, "/restore": {"snapshot": "x", "reason": "x"}}

    response = client.request(method, f"/v1/streams/nobody{path}", json=bodies.get(path or method))

    assert response.status_code == 404, response.text
    assert "unknown stream 'nobody'" in response.json()["error"]
    assert names(client) == []


def test_a_body_that_is_not_sent_as_json_is_told_so(client):
    response = client.post("/v1/streams", content=b'{"name":"door"}')

    assert response.status_code == 400
    assert "sent with Content-Type: application/json" in response.json()["error"]


def test_many_operators_at_once_open_a_stream_once(client, server):
    statuses: list[int] = []

    def open_stream() -> None:
        statuses.append(httpx.post(f"{server.url}/v1/streams", json={"name": "door"}, timeout=60).status_code)

    threads = [threading.Thread(target=open_stream) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(statuses) == [201, *[409] * 15]


# The document
def test_the_document_names_every_route_and_says_how_each_can_fail(client):
    paths = client.get("/openapi.json").json()["paths"]

    operations = {f"{verb.upper()} {path}": about for path, verbs in paths.items() for verb, about in verbs.items()}
    for name, about in operations.items():
        assert about.get("description"), name
        assert "422" not in about["responses"], name
    for name in ("PATCH /v1/streams/{name}", "PUT /v1/streams/{name}/state", "POST /v1/labels", "POST /predict"):
        schema = operations[name]["responses"]["400"]["content"]["application/json"]["schema"]
        assert schema["$ref"].endswith("/Problem")
