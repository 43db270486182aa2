"""True labels that come after the answers, and the names of requests that they refer to."""

import asyncio
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from tests.server import Running, running
from tests.tta_server.calls import INFER, UNGUARDED, body, glyph_images, infer, metric, stream
from tests.tta_server.pictures import png
from tests.tta_server.runtime.fakes import WHO, rows, submit, tiny
from tta_server.app import build
from tta_server.models import Model, Preprocess, glyphs
from tta_server.runtime.commands.stream_commands import Commands
from tta_server.settings_file import load_settings
from tta_server.streams.ledger import Label

COUNT = 8
CONFIG = {"model": {"device": "cpu"}, "engine": {"window_rows": 4}, "guard": UNGUARDED}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Running]:
    """A server that learns fast."""
    with running(tmp_path_factory.mktemp("labels"), CONFIG) as started:
        yield started


@pytest.fixture
def client(server: Running) -> httpx.Client:
    return server.client


def label(client: httpx.Client, *labels: dict) -> httpx.Response:
    return client.post("/v1/labels", json={"labels": list(labels)})


# Names of requests
@pytest.mark.parametrize("path", ["/predict", INFER])
def test_a_request_keeps_the_name_that_its_header_gives(client, path):
    content = png() if path == "/predict" else body(glyph_images(0, 1))

    response = client.post(path, content=content, headers={"X-Request-Id": "camera-7/42"})

    answer = response.json()
    assert response.headers["X-Request-Id"] == "camera-7/42"
    assert (answer.get("parameters") or answer)["request_id"] == "camera-7/42"


def test_a_request_without_a_name_is_told_one_that_labels_can_use(client):
    response = client.post("/predict", content=png(), headers={"X-Stream-Id": "unnamed"})

    name = response.json()["request_id"]
    assert response.headers["X-Request-Id"] == name
    assert label(client, {"id": name, "label": 0}).json()["counted"] == 1


def test_the_id_of_the_protocol_names_a_request_and_is_sent_back(client):
    content = body(glyph_images(0, 1))[:-1] + b',"id":"oip-1"}'

    response = client.post(INFER, content=content, headers={"X-Stream-Id": "oip"})

    assert (response.json()["id"], response.json()["parameters"]["request_id"]) == ("oip-1", "oip-1")
    assert response.headers["X-Request-Id"] == "oip-1"
    assert label(client, {"id": "oip-1", "label": 0}).json()["counted"] == 1


def test_the_header_wins_over_the_id_of_the_protocol(client):
    content = body(glyph_images(0, 1))[:-1] + b',"id":"inner"}'

    response = client.post(INFER, content=content, headers={"X-Request-Id": "outer"})

    assert (response.json()["id"], response.json()["parameters"]["request_id"]) == ("inner", "outer")


def test_a_refused_request_is_told_its_name_too(client):
    response = client.post("/predict", content=b"text", headers={"X-Request-Id": "bad-1"})

    assert (response.status_code, response.headers["X-Request-Id"]) == (415, "bad-1")
    assert label(client, {"id": "bad-1", "label": 0}).json() == {"counted": 0, "unknown": 1, "streams": {}}


# Labels
def test_the_accuracy_of_both_models_is_that_counted_by_hand(client):
    images, true = (part[:COUNT] for part in glyphs.images("test"))
    frozen = infer(client, "hand-frozen", images)
    client.patch("/v1/streams/hand-frozen", json={"mode": "off"}).raise_for_status()
    answered = infer(client, "hand", images, {"X-Request-Id": "hand-1"})
    wrong = (true + np.arange(COUNT) % 2) % len(glyphs.LABELS)  # every second one

    told = label(client, *({"id": "hand-1", "image": i, "label": int(each)} for i, each in enumerate(wrong))).json()

    def right(answer: dict) -> float:
        return float(
            np.mean([name == glyphs.LABELS[i] for name, i in zip(answer["outputs"][1]["data"], wrong, strict=True)])
        )

    accuracy = told["streams"]["hand"]
    assert (told["counted"], told["unknown"], list(told["streams"])) == (COUNT, 0, ["hand"])
    assert (accuracy["adapted"]["accuracy"], accuracy["source"]["accuracy"]) == (right(answered), right(frozen))
    assert accuracy["adapted"]["low"] < accuracy["adapted"]["accuracy"] < accuracy["adapted"]["high"]
    assert stream(client, "hand")["labelled"] == accuracy
    series = 'tta_labelled_accuracy_ratio{model="glyphs",stream="hand",variant="adapted"}'
    assert metric(client, series) == right(answered)


def test_a_class_may_be_given_by_name_or_by_index(client):
    infer(client, "both", glyph_images(0, 2), {"X-Request-Id": "both-1"})
    found = infer(client, "both", glyph_images(0, 2))["outputs"][1]["data"]

    told = label(
        client,
        {"id": "both-1", "label": found[0]},
        {"id": "both-1", "image": 1, "label": glyphs.LABELS.index(found[1])},
    ).json()

    assert (told["streams"]["both"]["adapted"]["labels"], told["streams"]["both"]["adapted"]["accuracy"]) == (2, 1.0)


def test_an_image_is_counted_once_and_what_is_not_remembered_is_unknown(client):
    infer(client, "once", glyph_images(0, 1), {"X-Request-Id": "once-1"})
    asked = [{"id": "once-1", "label": 0}, {"id": "once-1", "label": 0}, {"id": "once-1", "image": 1, "label": 0}]

    first = label(client, *asked, {"id": "never", "label": 0}).json()
    second = label(client, asked[0]).json()

    assert (first["counted"], first["unknown"]) == (1, 3)
    assert (second["counted"], second["unknown"], second["streams"]) == (0, 1, {})
    assert stream(client, "once")["labelled"]["adapted"]["labels"] == 1


def test_a_label_is_of_the_stream_that_answered(client):
    for name in ("here", "there"):
        infer(client, name, glyph_images(0, 1), {"X-Request-Id": "shared-1"})
    wanted = {"id": "shared-1", "label": 0}

    unclear = label(client, wanted)

    assert (unclear.status_code, "say which is meant with 'stream'" in unclear.text) == (400, True)
    assert list(label(client, wanted | {"stream": "here"}).json()["streams"]) == ["here"]
    assert label(client, wanted | {"stream": "nobody"}).json()["unknown"] == 1


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"id": "w", "label": "Ä"}, "label 'Ä' is no class of this model; it has"),
        ({"id": "w", "label": 36}, "label 36 is no class; the model has 36, counted from 0"),
        ({"id": "w", "label": -1}, "label -1 is no class"),
        ({"id": "w", "label": True}, "valid integer, got True"),
        ({"id": "w", "label": 1.5}, "valid integer"),
        ({"id": "w"}, "'labels.1.label' is missing"),
        ({"id": "", "label": 0}, "labels.1.id"),
        ({"id": "w", "label": 0, "image": -1}, "labels.1.image"),
        ({"id": "w", "label": 0, "place": 0}, "unknown key 'labels.1.place'"),
    ],
)
def test_one_wrong_label_refuses_all_of_them(client, wrong, reason):
    infer(client, "all", glyph_images(0, 1), {"X-Request-Id": "all-1"})

    response = label(client, {"id": "all-1", "label": 0}, wrong)

    assert response.status_code == 400, response.text
    assert reason in response.json()["error"]
    assert stream(client, "all")["labelled"]["adapted"]["labels"] == 0


def test_one_label_that_may_be_of_several_streams_refuses_all_of_them_however_many_there_are(client):
    for name in ("left", "right"):
        infer(client, name, glyph_images(0, 1), {"X-Request-Id": "both-have-it"})
    infer(client, "left", glyph_images(0, 20), {"X-Request-Id": "many-1"})
    clear = [{"id": "many-1", "image": place, "label": 0} for place in range(20)]

    unclear = label(client, *clear, {"id": "both-have-it", "label": 0})

    assert (unclear.status_code, "say which is meant with 'stream'" in unclear.text) == (400, True)
    assert stream(client, "left")["labelled"]["adapted"]["labels"] == 0
    told = label(client, *clear, {"id": "never", "label": 0}, {"id": "both-have-it", "label": 0, "stream": "right"})
    assert (told.json()["counted"], told.json()["unknown"], list(told.json()["streams"])) == (21, 1, ["left", "right"])


@pytest.mark.parametrize(("count", "status"), [(0, 400), (10_001, 413)])
def test_there_are_one_to_ten_thousand_labels_in_a_request(client, count, status):
    response = label(client, *[{"id": "x", "label": 0}] * count)

    assert response.status_code == status
    assert len(response.json()["error"]) < 300


def test_ten_thousand_labels_are_taken_at_once(client):
    assert label(client, *[{"id": "x", "label": 0}] * 10_000).json()["unknown"] == 10_000


def test_labels_of_a_deleted_stream_are_unknown(client):
    infer(client, "gone", glyph_images(0, 1), {"X-Request-Id": "gone-1"})
    client.delete("/v1/streams/gone").raise_for_status()

    assert label(client, {"id": "gone-1", "label": 0}).json() == {"counted": 0, "unknown": 1, "streams": {}}


def heard(*bodies: list[dict]) -> list[httpx.Response]:
    """Return what is answered to labels of one image each of the streams 'a' and 'b', whose requests are called so."""
    model = Model(tiny(), Preprocess((8, 8)), ("crane", "dog", "crane", "cat"))
    service = build(load_settings(None, {"guard": UNGUARDED}), model)

    async def hear() -> list[httpx.Response]:
        transport = httpx.ASGITransport(service.app)
        async with service.app.router.lifespan_context(service.app):
            for name in ("a", "b"):
                submit(service.served.engine, name, rows(1), "", name).result(60)
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                return [await client.post("/v1/labels", json={"labels": labels}) for labels in bodies]

    return asyncio.run(hear())


def test_labels_of_a_stream_that_is_deleted_before_they_are_counted_are_unknown(monkeypatch):
    count = Commands.label

    def late(commands: Commands, labels: list[Label]) -> dict:
        commands.delete("a", WHO)
        return count(commands, labels)

    monkeypatch.setattr(Commands, "label", late)

    (found,) = heard([{"id": name, "label": 0} for name in ("a", "b", "never")])

    told = found.json()
    assert (told["counted"], told["unknown"], list(told["streams"])) == (1, 2, ["b"])


def test_a_name_that_several_classes_have_is_refused():
    crane, cat = heard([{"id": "a", "label": "crane"}], [{"id": "a", "label": "cat"}])

    assert crane.status_code == 400
    assert "several classes are called 'crane'; send the index" in crane.json()["error"]
    assert cat.json()["counted"] == 1
