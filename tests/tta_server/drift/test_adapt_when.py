"""A stream that is to learn while it drifts only, under drift that comes and goes."""

import re
from dataclasses import dataclass

import pytest

from tests.tta_server.drift.test_monitor import WINDOW, drifted, worker
from tests.tta_server.runtime.fakes import ask, close, learn_all
from tta_server.models import glyphs
from tta_server.runtime.work.worker import Worker
from tta_server.settings_file import load_settings
from tta_server.telemetry.metrics import render

REQUEST = 16


@dataclass
class Course:
    """Where a stream stood after each request: its state of drift, and how many images it had learnt from."""

    states: list[str]
    learnt: list[int]


def shown(subject: Worker, images: object) -> Course:
    course = Course([], [])
    for start in range(0, len(images), REQUEST):
        ask(subject, "gate", images[start : start + REQUEST])
        learn_all(subject)
        stream = subject.parts.registry.existing("gate")
        course.states.append(stream.drift.state)
        course.learnt.append(stream.learnt)
    return course


@pytest.mark.parametrize(("mode", "domains"), [("after", 1), ("after", 16), ("inline", 1)])
def test_it_learns_while_it_drifts_and_neither_before_nor_after_and_every_image_is_accounted_for(mode, domains):
    clean = glyphs.images("test")[0][-10 * WINDOW :]
    subject = worker(mode, domains, adapt_when="drift", duplicate_memory=0)
    before = shown(subject, clean[: 4 * WINDOW])
    during = shown(subject, drifted(6 * WINDOW))
    after = shown(subject, clean[4 * WINDOW :])
    series = render([subject.parts.metrics]).decode()
    stream = subject.parts.registry.existing("gate")
    close()

    assert set(before.states) <= {"unknown", "stable"}
    assert before.learnt[-1] == 0
    assert during.states[-1] == "drift"
    assert during.learnt[-1] > 0
    assert after.states[-1] == "stable"
    again = after.states.index("stable")
    assert set(after.learnt[again:]) == {after.learnt[-1]}
    assert set(stream.dropped) <= {"calm"}
    if domains == 1:
        assert stream.dropped["calm"] >= 4 * WINDOW
        assert f'reason="calm",stream="gate"}} {float(stream.dropped["calm"])}' in series
    offered = float(re.search(r"^tta_samples_offered_total{.*} (\S+)$", series, re.MULTILINE)[1])
    waiting = sum(len(each.window) for each in [stream, *subject.parts.registry.every_stream_in_memory()][1:])
    assert offered == stream.learnt + stream.dropped["calm"] + waiting


def test_one_stream_can_wait_for_drift_and_others_not():
    settings = load_settings(None, {"streams": {"named": {"gate": {"adapt_when": "drift"}}}}).streams

    assert (settings.when("gate"), settings.when("door")) == ("drift", "always")


@pytest.mark.parametrize("streams", [{"adapt_when": "drift"}, {"named": {"gate": {"adapt_when": "drift"}}}])
def test_to_wait_for_drift_that_nobody_watches_is_refused(streams, monkeypatch):
    monkeypatch.setenv("TTA_DRIFT__ENABLED", "false")

    with pytest.raises(ValueError, match=r"adapt_when is 'drift', but nothing would ever be learnt: drift.enabled"):
        worker("after", **streams)
    close()
