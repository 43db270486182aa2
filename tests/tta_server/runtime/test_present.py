"""What is said of a stream whose domain the guard has switched off, or trusts less than the frozen model."""

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.tta_server.runtime.apart import taught, telling
from tests.tta_server.runtime.fakes import WHO, Scripted, Wired, ask, bright, dark, learn_all, rows, value
from tta_server.api.bodies import Listing
from tta_server.telemetry.metrics import render

GONE = 0.0  # the sum of no series


class Said(NamedTuple):
    """What is said of who answers."""

    domain: str
    answers: str
    because: str
    frozen: bool
    restores: int
    as_source: float
    switched_off: float
    at_home: float


def said(subject: Wired, name: str = "door") -> Said:
    """Return it, from lists, from the stream and from the metrics, which must agree."""
    about = subject.commands.read(name)
    (listed,) = subject.commands.list(wanted=lambda summary: summary.name == name).streams
    assert about.items() >= listed.items()
    gauges = ("tta_serving_source", "tta_stream_frozen", "tta_stream_at_home")
    shown = [value(subject.metrics, gauge, stream=name) for gauge in gauges]
    return Said(
        *(about[key] for key in ("domain", "answers", "source_because")),
        bool(about["frozen"]),
        about["restores_in_a_row"],
        *shown,
    )


def show(subject: Wired, look, count: int = 1) -> None:
    for seed in range(count):
        ask(subject, "door", look(16, seed))
        learn_all(subject)


def listed(subject: Wired, **wanted: object) -> list[str]:
    return [each["name"] for each in subject.commands.list(wanted=Listing(**wanted).wants).streams]


HOME = Said("", "source", "home", False, 0, 1, 0, 1)
FROZEN = Said("door@1", "source", "frozen", True, 3, 1, 1, 0)


def test_a_stream_is_frozen_while_it_is_in_a_domain_that_the_guard_switched_off():
    subject = telling(judge=Scripted(("rollback",)))
    show(subject, dark, 2)
    assert said(subject) == Said("door@1", "source", "guard", False, 2, 1, 0, 0)

    show(subject, dark)
    assert said(subject) == FROZEN
    assert "taken back 3 times in a row" in subject.commands.read("door")["frozen"]
    assert (listed(subject, frozen=True), listed(subject, answers="adapted")) == (["door"], [])

    ask(subject, "door", rows(16))  # at home, of which no event is logged
    assert said(subject) == HOME
    assert (listed(subject, frozen=True), listed(subject, answers="source")) == ([], ["door"])
    ask(subject, "door", bright(16))
    assert said(subject) == Said("door@2", "source", "new", False, 0, 1, 0, 0)
    ask(subject, "door", dark(16))
    assert said(subject) == FROZEN

    subject.commands.change("door", "after", None, WHO)  # from what the source knows
    assert said(subject) == Said("door@1", "source", "new", False, 0, 1, 0, 0)


@pytest.mark.parametrize("name", ["door", "door@1"])
def test_what_is_on_disk_is_said_to_be_frozen_also_after_a_restart(tmp_path: Path, name: str):
    subject = telling(judge=Scripted(("rollback",)), storage=str(tmp_path))
    show(subject, dark, 3)
    before = subject.commands.list().streams[0]
    subject.commands.evict(name)
    assert subject.commands.list().streams[0] == before | {"in_memory": name != "door"}
    subject.commands.save()
    subject.kept.keeper.close()

    again = telling(judge=Scripted(("rollback",)), storage=str(tmp_path))

    assert again.commands.list().streams[0] == before | {"in_memory": False}
    ask(again, "door", dark(4))
    assert said(again) == FROZEN


def test_a_stream_whose_domain_the_guard_distrusts_is_answered_by_the_source():
    subject = telling(judge=Scripted(("commit", "commit/source", "commit")))
    show(subject, dark)
    assert said(subject) == Said("door@1", "adapted", "", False, 0, 0, 0, 0)

    show(subject, dark)
    assert said(subject) == Said("door@1", "source", "guard", False, 0, 1, 0, 0)
    assert listed(subject, answers="source") == ["door"]

    show(subject, dark)
    assert said(subject).answers == "adapted"


@pytest.mark.parametrize("mode", ["off", "shadow"])
def test_the_source_answers_because_of_the_mode(mode: str):
    subject = taught()

    subject.commands.change("door", mode, None, WHO)

    assert said(subject)[1:4] == ("source", mode, False)
    assert value(subject.metrics, "tta_serving_source", stream="door") == 1


def test_what_was_measured_of_a_domain_is_shown_while_the_stream_is_in_it():
    subject = telling(judge=Scripted(("commit",)))
    diversity, agreement = "tta_prediction_diversity_ratio", "tta_source_agreement_ratio"

    def shown() -> list[bool]:
        text = render([subject.metrics]).decode().splitlines()
        return [any(line.startswith(name + "{") for line in text) for name in (diversity, agreement)]

    show(subject, dark)
    assert shown() == [True, True]
    ask(subject, "door", rows(16))
    assert shown() == [False, False]
    show(subject, rows, 3)  # windows of the frozen model bring nothing back
    assert shown() == [False, False]
    show(subject, dark)
    assert shown() == [True, True]
    ask(subject, "door", bright(8))
    assert shown() == [False, False]
    ask(subject, "door", bright(8))
    learn_all(subject)
    assert shown() == [True, True]
    subject.commands.change("door", "off", None, WHO)
    assert shown() == [False, False]


def test_a_stream_that_shares_its_series_counts_with_what_it_is():
    subject = telling(judge=Scripted(("rollback",)), max_labelled=0)
    show(subject, dark, 3)
    ask(subject, "yard", rows(16))

    def shared(name: str) -> float:
        return value(subject.metrics, name, stream="_other")

    assert (shared("tta_stream_frozen"), shared("tta_serving_source"), shared("tta_stream_at_home")) == (1, 2, 1)
    ask(subject, "yard", dark(16))
    assert (shared("tta_stream_frozen"), shared("tta_serving_source"), shared("tta_stream_at_home")) == (1, 2, 0)
    subject.commands.delete("door", WHO)
    assert (shared("tta_stream_frozen"), shared("tta_serving_source")) == (0, 1)
    assert shared("tta_predictive_entropy_ratio") == shared("tta_state_version") == GONE
