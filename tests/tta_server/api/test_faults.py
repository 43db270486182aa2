"""Only what the caller did is 4xx: what breaks in the server is 500, on every route."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.tta_server.calls import UNGUARDED
from tests.tta_server.pictures import png
from tests.tta_server.runtime.fakes import SHAPE, tiny
from tta_server.app import Service, build
from tta_server.models import Model, Preprocess
from tta_server.runtime.commands.compare_commands import CompareCommands
from tta_server.runtime.commands.domain_commands import DomainCommands
from tta_server.runtime.commands.drift_commands import DriftCommands
from tta_server.runtime.commands.state_commands import StateCommands
from tta_server.runtime.commands.stream_commands import Commands
from tta_server.settings_file import load_settings

PATIENCE_S = 30.0
BODIES: dict[str, dict[str, Any]] = {
    "POST /v1/streams": {"json": {"name": "gate", "adapter": {"name": "bn"}}},
    "PATCH /v1/streams": {"json": {"mode": "off", "reason": "x"}},
    "PATCH /v1/streams/{name}": {"json": {"mode": "off", "adapter": {"name": "bn"}}},
    "POST /v1/streams/{name}/rollback": {"json": {"version": 0, "reason": "x"}},
    "POST /v1/streams/{name}/restore": {"json": {"snapshot": "x", "reason": "x"}},
    "PATCH /v1/streams/{name}/domains/{number}": {"json": {"title": "x"}},
    "POST /v1/streams/{name}/domains/{number}/offer": {"json": {"to": ["x"], "reason": "x"}},
    "PUT /v1/streams/{name}/state": {"content": b"x"},
    "POST /v1/streams/{name}/compare": {"content": png()},
    "POST /v1/labels": {"json": {"labels": [{"id": "x", "label": 0}]}},
}


def make(folder: Path) -> Service:
    settings = load_settings(None, {"storage": {"url": str(folder), "save_every_s": 0}, "guard": UNGUARDED})
    return build(settings, Model(tiny(), Preprocess(SHAPE[1:]), ("a", "b", "c", "d")))


def asked(service: Service, requests: dict[str, dict[str, Any]]) -> dict[str, httpx.Response]:
    """Send requests, by method and path, and return the answers."""

    async def send() -> dict[str, httpx.Response]:
        transport = httpx.ASGITransport(service.app, raise_app_exceptions=False)
        async with (
            service.app.router.lifespan_context(service.app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as client,
        ):
            return {
                name: await client.request(*name.format(name="door", number=1).split(" "), **content)
                for name, content in requests.items()
            }

    return asyncio.run(send())


def routes(service: Service) -> list[str]:
    paths = service.app.openapi()["paths"]
    found = [f"{verb.upper()} {path}" for path, verbs in paths.items() for verb in verbs if path.startswith("/v1")]
    assert set(BODIES) <= set(found)
    return found


def test_an_error_of_a_command_is_the_servers_on_every_route(tmp_path, monkeypatch):
    service = make(tmp_path)

    def bug(*_args: object, **_keys: object) -> None:
        raise ValueError("a bug, and nobody's request")

    for commands in (Commands, CompareCommands, DomainCommands, DriftCommands, StateCommands):
        for name in [name for name in vars(commands) if not name.startswith("_") and name != "save"]:
            monkeypatch.setattr(commands, name, bug)
    # Neither the log of all streams nor a home that is gathered asks a command; the log of one does if it is empty.
    wanted = [name for name in routes(service) if name != "GET /v1/audit" and not name.endswith("/calibrate")]

    answers = asked(service, {name: BODIES.get(name, {}) for name in wanted})

    told = {name: (answer.status_code, answer.json()["code"]) for name, answer in answers.items()}
    assert told == dict.fromkeys(wanted, (500, "internal"))
    assert not any("a bug" in answer.text for answer in answers.values())


@pytest.mark.parametrize(
    "section", [{"name": "nope"}, {"name": "tent", "settings": {"lr": -1}}, {"name": "adanpc"}, {"name": "eata"}]
)
def test_an_adapter_that_cannot_be_had_is_the_callers(tmp_path, section):
    wrong = {"name": "gate", "adapter": section}
    answers = asked(
        make(tmp_path),
        {
            "POST /v1/streams": {"json": wrong},
            "POST /predict": {"content": png(), "headers": {"X-Stream-Id": "door"}},
            "PATCH /v1/streams/{name}": {"json": {"adapter": section}},
            "GET /v1/streams": {},
        },
    )

    assert [answer.status_code for answer in answers.values()] == [400, 200, 400, 200]
    assert [each["name"] for each in answers["GET /v1/streams"].json()["streams"]] == ["door"]


@pytest.mark.parametrize(
    "where", ["tta_server.api.front.receiving.Intake.begin", "tta_server.runtime.queue.engine.Engine.reserve"]
)
def test_a_bug_in_a_layer_or_in_what_predicts_is_told_as_one_in_a_route(tmp_path, monkeypatch, where):
    service = make(tmp_path)

    def bug(*_args: object, **_keys: object) -> None:
        raise RuntimeError("a bug, and nobody's request")

    monkeypatch.setattr(where, bug)
    answers = asked(service, {"POST /predict": {"content": png()}, "GET /v2/health/live": {}})

    assert (answers["POST /predict"].status_code, answers["POST /predict"].json()["code"]) == (500, "internal")
    assert "a bug" not in answers["POST /predict"].text
    assert answers["GET /v2/health/live"].status_code == (500 if "Intake" in where else 200)


def test_an_operator_is_not_kept_waiting_for_a_storage_that_says_nothing(tmp_path, monkeypatch):
    service, goes_on = make(tmp_path), threading.Event()
    store, audit = service.served.storage.store, service.served.storage.audit

    def hangs(*_args: object, **_keys: object) -> None:
        assert goes_on.wait(PATIENCE_S)
        raise OSError("gone")

    for part, name in ((store, "snapshots"), (store, "delete"), (audit, "newest")):
        monkeypatch.setattr(part, name, hangs)
    monkeypatch.setattr(store, "snapshot", hangs)
    monkeypatch.setattr("tta_server.api.patience._WITHIN_S", 0.2)
    monkeypatch.setattr("tta_server.api.audit._FLUSH_WITHIN_S", 0.1)
    monkeypatch.setattr("tta_server.runtime.served.Keeper.close", lambda *_: goes_on.set())
    waits = {
        "GET /v1/streams/{name}/snapshots": "ask again later",
        "GET /v1/streams/{name}/audit": "ask again later",
        "POST /v1/streams/{name}/snapshots": "the snapshot may still be kept",
        "DELETE /v1/streams/{name}": "it is gone, and its files will be erased once the storage answers",
    }

    answers = asked(service, {"POST /v1/streams": {"json": {"name": "door"}}} | {name: {} for name in waits})

    for name, otherwise in waits.items():
        assert (answers[name].status_code, answers[name].json()["code"]) == (500, "internal"), name
        assert answers[name].json()["error"] == f"the storage has not answered for 0 s; {otherwise}"


def test_a_bug_after_an_answer_is_logged_too(tmp_path, monkeypatch, caplog):
    service = make(tmp_path)

    def bug(*_args: object, **_keys: object) -> None:
        raise RuntimeError("a bug, and nobody's request")

    monkeypatch.setattr("tta_server.api.front.middleware._outcome", bug)
    answers = asked(service, {"POST /predict": {"content": b"no image"}})

    assert answers["POST /predict"].status_code == 415
    assert caplog.text.count("POST /predict failed") == 1
    assert caplog.text.count("Traceback") == 1
