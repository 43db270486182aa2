"""The OpenAPI document: what it says of every answer is there, and true of real ones."""

import asyncio
import importlib
import io
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import jsonschema
import orjson
import pytest

from tests.server import running
from tests.tta_server.calls import UNGUARDED, body
from tests.tta_server.pictures import png
from tests.tta_server.runtime.fakes import SHAPE, dark, styled, tiny
from tta_server.api.front.document import Told, described
from tta_server.app import build
from tta_server.models import Model, Preprocess
from tta_server.settings_file import load_settings

BODIES = ("application/json", "application/octet-stream", "text/plain")

# What this server, whose bundle knows a style alone, does not do; test_strange_api.py has the other answer.
_NOT_HERE = {"GET /v1/streams/{name}/strange": 501}

_ABOUT = ("", "/ready", "/config", "/stats")


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of a server in this process; it keeps what it learns."""
    settings = load_settings(
        None,
        {
            "adapter": {"name": "tent", "settings": {"lr": 0.1}},
            "engine": {"max_rows": 16, "window_rows": 16},
            "storage": {"url": str(folder), "save_every_s": 0},
            "guard": UNGUARDED,
            "model": {"weights": str(folder / "weights.safetensors")},
            "repository": {"models": {"second": {"architecture": "glyphs"}}},
        },
    )
    network = tiny()
    model = Model(network, Preprocess(SHAPE[1:]), ("a", "b", "c", "d"), reference=styled(network))
    app = build(settings, model).app
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        yield client


class Exchange(NamedTuple):
    """A request to one operation of the document, and its answer."""

    operation: str
    response: httpx.Response


async def everything(folder: Path) -> tuple[dict[str, Any], list[Exchange]]:
    """Return the document, and an answer of every operation after a stream has learnt something."""
    made: list[Exchange] = []
    async with serving(folder) as client:

        async def call(method: str, path: str, name: str = "door", **content: Any) -> httpx.Response:
            where = path.format(name=name, model="tiny", version="1", number=1, repository="r")
            response = await client.request(method, where, **content)
            made.append(Exchange(f"{method} {path.replace('{model}', '{name}')}", response))
            return response

        tensor = {"content": body(dark(16)), "headers": {"X-Stream-Id": "door", "X-Request-Id": "r"}}
        for path in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"):
            await call("POST", path, **tensor)
        while not (await client.get("/v1/streams/door@1")).json()["steps"]:
            await asyncio.sleep(0.001)
        await call("POST", "/predict", content=png())
        await call("POST", "/v1/streams/{name}/compare", content=png())
        label = {"id": "r", "label": "a"}
        await call("POST", "/v1/labels", json={"labels": [label, label]})
        await call("POST", "/v1/streams", json={"name": "gate", "mode": "off"})
        await call("POST", "/v1/streams/{name}/rollback", "door@1", json={"version": 2, "reason": "x"})
        snapshot = await call("POST", "/v1/streams/{name}/snapshots", "door@1")
        restored = {"snapshot": snapshot.json()["id"], "reason": "x"}
        await call("POST", "/v1/streams/{name}/restore", "door@1", json=restored)
        state = await call("GET", "/v1/streams/{name}/state", "door@1")
        await call("PUT", "/v1/streams/{name}/state", content=state.content)
        await call("POST", "/v1/streams/{name}/domains/{number}/offer", json={"to": ["gate"], "reason": "x"})
        await call("PATCH", "/v1/streams/{name}/domains/{number}", json={"title": "night"})
        await call("GET", "/v1/streams/{name}/snapshots", "door@1")
        for path in ("", "/{name}", "/{name}/domains", "/{name}/drift", "/{name}/strange", "/{name}/audit"):
            await call("GET", f"/v1/streams{path}")
        await call("PATCH", "/v1/streams/{name}", json={"mode": "shadow"})
        await call("PATCH", "/v1/streams", json={"mode": "off", "reason": "x"})
        await call("DELETE", "/v1/streams/{name}/domains/{number}")
        await call("POST", "/v1/streams/{name}/reset")
        await call("POST", "/v1/streams/{name}/evict")
        await call("DELETE", "/v1/streams/{name}")
        for path in ("/v2/repository/index", "/v2/repository/{repository}/index"):
            await call("POST", path, json={"ready": True})
        for change in ("unload", "load"):
            await call("POST", f"/v2/repository/models/{{name}}/{change}", "second")
        model = [f"{version}{what}" for version in ("", "/versions/{version}") for what in _ABOUT]
        about = ["/v2", "/v2/models", "/v2/models/stats", *(f"/v2/models/{{model}}{path}" for path in model)]
        await call("POST", "/v1/calibrate", json={"replace": True, "reason": "x"})
        await call("GET", "/v1/calibrate")
        await call("DELETE", "/v1/calibrate")
        for path in [*about, "/v2/health/live", "/v2/health/ready", "/v1/audit", "/metrics"]:
            await call("GET", path)
        return (await client.get("/openapi.json")).json(), made


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory) -> tuple[dict[str, Any], list[Exchange]]:
    return asyncio.run(everything(tmp_path_factory.mktemp("kept")))


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{verb.upper()} {path}": about for path, verbs in document["paths"].items() for verb, about in verbs.items()
    }


def test_every_operation_says_what_its_answer_is(exchanged):
    document, _ = exchanged

    for name, about in operations(document).items():
        good = {status: answer for status, answer in about["responses"].items() if status.startswith("2")}
        assert len(good) == 1, name
        for status, answer in good.items():
            schemas = [each["schema"] for kind, each in answer.get("content", {}).items() if kind in BODIES]
            assert status == "204" or all(schemas), name
            ways = 2 if name.endswith("/infer") else 1  # of inference: tensors in JSON, or behind it
            assert len(schemas) == (ways if status != "204" else 0), name
            assert answer["description"], name


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/predict", ["X-Stream-Id", "X-Request-Id"]),
        ("/v2/models/{name}/infer", ["X-Stream-Id", "X-Request-Id", "Inference-Header-Content-Length"]),
    ],
)
def test_the_headers_that_a_request_may_have_are_parameters_of_it(exchanged, path, headers):
    document, _ = exchanged
    about = document["paths"][path]["post"]

    named = {each["name"]: each for each in about["parameters"] if each["in"] == "header"}

    assert list(named) == headers
    assert all(each["description"] and each["schema"] for each in named.values())
    schema = named["X-Stream-Id"]["schema"]
    for name, good in (("gate-7", True), ("", True), ("...", False), ("a b", False), ("x" * 65, False)):
        assert jsonschema.Draft202012Validator(schema).is_valid(name) == good, name


def test_whatever_takes_a_body_says_how_bodies_are_refused_and_probes_that_they_may_say_no(exchanged):
    document, _ = exchanged

    for name, about in operations(document).items():
        if name.startswith(("POST", "PUT", "PATCH")):
            assert {"408", "413", "429", "501"} <= about["responses"].keys(), name
        if "/ready" in name or name.endswith("/live"):
            answers = [about["responses"][status]["content"]["application/json"] for status in ("200", "503")]
            assert answers[0] == answers[1], name


def test_the_document_names_every_route_and_says_how_each_can_fail(exchanged):
    document, _ = exchanged

    known = operations(document)
    for name, about in known.items():
        assert about.get("description"), name
        assert "422" not in about["responses"], name
    for name in ("PATCH /v1/streams/{name}", "PUT /v1/streams/{name}/state", "POST /v1/labels", "POST /predict"):
        schema = known[name]["responses"]["400"]["content"]["application/json"]["schema"]
        assert schema["$ref"].endswith("/Problem")


def test_every_operation_was_asked_and_answered_as_the_document_says(exchanged):
    document, made = exchanged
    known = operations(document)

    assert {each.operation for each in made} == set(known)
    for name, response in made:
        declared = known[name]["responses"].get(str(response.status_code))
        assert response.is_success or _NOT_HERE.get(name) == response.status_code, (name, response.text)
        assert declared, (name, response.status_code)
        if response.status_code == 204:
            assert (response.content, response.headers.get("content-type")) == (b"", None), name
            continue
        kind = response.headers["content-type"].partition(";")[0]
        schema = declared["content"][kind]["schema"]
        if kind == "application/json":
            jsonschema.validate(response.json(), schema | {"components": document["components"]})
        else:
            assert (response.content != b"", schema["type"]) == (True, "string")


def test_the_schemas_allow_no_key_that_they_do_not_name(exchanged):
    document, _ = exchanged
    schemas = document["components"]["schemas"]

    assert "StreamDetails" in schemas
    assert [name for name, schema in schemas.items() if schema.get("additionalProperties", True)] == ["Problem"]


def test_errors_are_as_the_document_says(tmp_path):
    async def refused() -> tuple[dict[str, Any], httpx.Response]:
        async with serving(tmp_path) as client:
            return (await client.get("/openapi.json")).json(), await client.get("/v1/streams/nobody")

    document, response = asyncio.run(refused())

    schema = operations(document)["GET /v1/streams/{name}"]["responses"]["404"]["content"]["application/json"]["schema"]
    jsonschema.validate(response.json(), schema | {"components": document["components"]})


def test_a_client_that_was_made_from_the_document_reads_a_prediction_by_attribute(tmp_path, monkeypatch):
    with running(tmp_path, {"model": {"device": "cpu"}, "guard": UNGUARDED}) as server:
        document, settings, package = tmp_path / "openapi.json", tmp_path / "client.json", tmp_path / "made_client"
        document.write_bytes(server.client.get("/openapi.json").content)
        settings.write_bytes(orjson.dumps({"post_hooks": []}))
        options = ["--path", document, "--output-path", package, "--config", settings, "--meta", "none"]
        subprocess.run([sys.executable, "-m", "openapi_python_client", "generate", *options], check=True)
        monkeypatch.syspath_prepend(tmp_path)
        predict = importlib.import_module("made_client.api.predict.predict")
        read_stream = importlib.import_module("made_client.api.streams.read_stream")
        models, kinds = importlib.import_module("made_client.models"), importlib.import_module("made_client.types")

        sent = kinds.File(payload=io.BytesIO(png(32, 32)), file_name="frame.png")
        with importlib.import_module("made_client").Client(base_url=server.url) as client:
            answer = predict.sync(client=client, body=models.PredictFilesImageFiles(image=[sent]), top_k=2)
            about = read_stream.sync("default", client=client)
            missing = read_stream.sync("nobody", client=client)

    (seen,) = answer.predictions
    assert (answer.model, answer.stream, answer.state_version) == ("glyphs", "default", 0)
    assert [seen.top[0].label, len(seen.top)] == [seen.label, 2]
    assert 0 <= seen.top[1].probability <= seen.top[0].probability <= 1
    assert (about.images, about.labelled.adapted.labels) == (1, 0)
    assert (missing.code, "unknown stream 'nobody'" in missing.error) == ("not_found", True)


def test_two_answers_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two answers called 'Predictions'"):
        described(type("Predictions", (Told,), {}), "another")
