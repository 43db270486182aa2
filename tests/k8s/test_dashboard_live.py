"""The dashboard on real data: a real server, a replay of images, and a real Prometheus that answers every query."""

import io
import itertools
import math
import re
import subprocess
import time
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from k8s.alerts.rules import ALERTS
from tests.k8s.manifests import K8S
from tests.tta_server.calls import infer
from tta_server.evaluate.corruptions import corrupt
from tta_server.models.glyphs import images

DEADLINE_S = 40
ROWS = 16
Values = dict[str, float]


@pytest.fixture(scope="module")
def query(prometheus) -> Iterator[Callable[..., list[dict]]]:
    """Return a function from an expression to what Prometheus finds for it, now or some seconds later."""
    variables = {"namespace": ".*", "model": ".+", "stream": ".+", "__rate_interval": "30s", "__range": "30s"}

    with httpx.Client(base_url=prometheus, trust_env=False) as client:

        def ask(expr: str, later_s: float = 0) -> list[dict]:
            filled = re.sub(r"\$(\w+)", lambda match: variables[match[1]], expr)
            answer = client.get("/api/v1/query", params={"query": filled, "time": time.time() + later_s}).json()
            assert answer["status"] == "success", f"{answer.get('error')}: {filled}"
            return answer["data"]["result"]

        yield ask


@pytest.fixture(scope="module")
def replay(live_server) -> Iterator[Callable[[], None]]:
    """Return a function that sends the next images to both streams, and now and then labels and a reset.

    The images are drifted, or the guard would have nothing be learnt.
    """
    pixels, labels = images("test")
    noise = np.random.default_rng(0).normal(0, 50, pixels[:512].shape)
    files = [png(image) for image in (pixels[:512] * 0.5 + 60 + noise).clip(0, 255).astype(np.uint8)]
    starts = itertools.cycle(range(0, len(files), ROWS))

    with httpx.Client(base_url=live_server, trust_env=False, timeout=30) as client:
        rounds = itertools.count()

        def send() -> None:
            start, number = next(starts), next(rounds)
            batch = files[start : start + ROWS]
            for stream in ("camera", "frozen"):
                form = [("image", (f"{i}.png", file, "image/png")) for i, file in enumerate(batch)]
                client.post("/predict", files=form, headers=headers(stream, number)).raise_for_status()
            told = [{"id": f"camera-{number}", "image": i, "label": int(labels[start + i])} for i in range(ROWS)]
            client.post("/v1/labels", json={"labels": told}).raise_for_status()
            assert client.post("/predict", content=b"no image").status_code == 415
            if number % 8 == 4:
                client.post("/v1/streams/camera/reset").raise_for_status()

        yield send


def headers(stream: str, number: int) -> dict[str, str]:
    return {"X-Stream-Id": stream, "X-Request-Id": f"{stream}-{number}"}


def png(image) -> bytes:
    with io.BytesIO() as buffer:
        Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "PNG")
        return buffer.getvalue()


def by_stream(result: list[dict]) -> Values:
    return {series["metric"]["stream"]: float(series["value"][1]) for series in result}


def has_data(result: list[dict]) -> bool:
    return bool(result) and all(math.isfinite(float(series["value"][1])) for series in result)


def test_every_panel_shows_data(panels, query, replay, poll):
    expressions = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
    empty = expressions

    def all_shown() -> bool:
        nonlocal empty
        replay()
        empty = [(title, expr) for title, expr in expressions if not has_data(query(expr))]
        return not empty

    poll(all_shown, DEADLINE_S, missing=lambda: empty)


def test_a_server_of_two_models_is_one_server(panels, query, replay, poll):
    titles = ("Servers", "Youngest server", "Memory", "Processor time")
    (counted, *each) = [panel["targets"][0]["expr"] for title in titles for panel in panels if panel["title"] == title]

    def found() -> list[list[dict]] | None:
        replay()
        results = [query(expr) for expr in each]
        return results if len(query("tta_build_info")) == 2 and all(results) else None

    results = poll(found, DEADLINE_S)

    assert [series["value"][1] for series in query(counted)] == ["1"]
    assert [len(result) for result in results] == [1, 1, 1]


def test_a_start_is_marked_for_two_minutes(dashboard, query, poll):
    (starts,) = [each["expr"] for each in dashboard["annotations"]["list"] if each["name"] == "Starts"]

    assert poll(lambda: query("process_start_time_seconds and on (instance) tta_build_info"), DEADLINE_S)
    assert query(starts, later_s=130) == []


def test_every_annotation_marks_something(dashboard, query, replay, poll):
    expressions = [annotation["expr"] for annotation in dashboard["annotations"]["list"]]

    def all_marked() -> bool:
        replay()
        return all(has_data(query(expr)) for expr in expressions)

    poll(all_marked, DEADLINE_S)


def test_the_variables_offer_the_models_and_the_streams(dashboard, prometheus, replay, poll):
    queries = {variable["name"]: variable["query"] for variable in dashboard["templating"]["list"][1:]}

    def offered(name: str) -> set[str]:
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", queries[name]["query"]).groups()
        url = f"{prometheus}/api/v1/label/{label}/values"
        answer = httpx.get(
            url, params={"match[]": selector.replace("$model", ".+").replace("$namespace", ".*")}, trust_env=False
        )
        return set(answer.json()["data"])

    replay()
    poll(lambda: offered("model") == {"glyphs", "second"} and offered("stream") >= {"camera", "frozen"}, DEADLINE_S)


def test_the_panels_tell_a_frozen_stream_from_one_that_learns(panels, query, replay, poll):
    (version,) = [panel for panel in panels if panel["title"] == "Version of the state"]
    (steps,) = [panel for panel in panels if panel["title"] == "Steps per minute"]

    def learning() -> tuple[Values, Values] | None:
        replay()
        values = [by_stream(query(panel["targets"][0]["expr"])) for panel in (version, steps)]
        return (values[0], values[1]) if all(value.get("camera", 0) > 0 for value in values) else None

    versions, rates = poll(learning, DEADLINE_S)
    assert versions["frozen"] == 0
    assert rates["frozen"] == 0


def test_of_the_alerts_only_drift_is_on_its_way_while_the_input_drifts(prometheus, replay, poll):
    def rules() -> list[dict]:
        (group,) = httpx.get(f"{prometheus}/api/v1/rules", trust_env=False).json()["data"]["groups"]
        return group["rules"]

    def known() -> dict[str, set[str]]:
        replay()
        on = {rule["name"]: {each["labels"].get("stream", "") for each in rule["alerts"]} for rule in rules()}
        return on if {"camera", "frozen"} <= on["TtaDrift"] else {}

    on = poll(known, DEADLINE_S)

    assert {rule["health"] for rule in rules()} == {"ok"}
    assert {name for name, streams in on.items() if streams} <= {"TtaDrift", "TtaEstimatedAccuracyFalls"}


def test_a_frozen_domain_raises_an_alert_while_the_stream_is_in_it_and_a_stream_at_home_raises_none(
    live_server, prometheus, query, poll
):
    clean = images("test")[0]
    noisy = corrupt(clean[:256], "gaussian_noise", 5)

    def fired(name: str) -> set[str]:
        return {each["metric"].get("stream", "") for each in query(f'ALERTS{{alertname="{name}",alertstate="firing"}}')}

    with httpx.Client(base_url=live_server, trust_env=False, timeout=30) as client:
        reckless = {"name": "reckless", "adapter": {"name": "tent", "settings": {"lr": 10.0}}}
        client.post("/v1/streams", json=reckless).raise_for_status()
        starts = itertools.cycle(range(0, len(noisy), ROWS))

        def show(shown: np.ndarray) -> None:
            start = next(starts)
            infer(client, "reckless", shown[start : start + ROWS])
            infer(client, "calm", clean[start : start + ROWS])

        def is_fired(shown: np.ndarray) -> bool:
            show(shown)
            return fired("TtaStreamFrozen") == {"reckless"}

        poll(lambda: is_fired(noisy), DEADLINE_S, missing=lambda: client.get("/v1/streams/reckless").text)
        poll(lambda: not is_fired(clean), DEADLINE_S, missing=lambda: client.get("/v1/streams/reckless").text)
        on = {alert.name: {each["metric"].get("stream", "") for each in query(alert.expr)} for alert in ALERTS}
        client.delete("/v1/streams/reckless").raise_for_status()

    assert by_stream(query("tta_images_total"))["calm"] >= 3 * ROWS
    assert {name for name, streams in on.items() if streams & {"calm", ""}} == set()


def test_what_replicas_are_scaled_by_is_one_number_and_a_busy_device_is_at_most_all_of_it(query, replay, poll):
    scaled = yaml.safe_load((K8S / "components/autoscaling/scaled-object.yaml").read_text())
    busy, waiting = (trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"])

    def known() -> tuple[list[dict], list[dict]] | None:
        replay()
        found = query(busy), query(waiting)
        return found if all(map(has_data, found)) else None

    ((share,), (images,)) = poll(known, DEADLINE_S)

    assert 0 <= float(share["value"][1]) <= 1.05  # a rate is stretched to its window's ends
    assert float(images["value"][1]) >= 0


def test_promtool_finds_nothing_wrong_with_the_metrics(live_server, promtool, replay):
    replay()
    exposed = httpx.get(f"{live_server}/metrics", trust_env=False)

    checked = subprocess.run(
        [promtool, "check", "metrics"], input=exposed.content, capture_output=True, check=False, timeout=30
    )

    assert checked.returncode == 0, checked.stderr.decode()
    assert b"tta_predictive_entropy_ratio" in exposed.content
