"""Domains go from one stream to another, and from server to server; what happens to them is counted."""

from pathlib import Path

import numpy as np
import pytest

from tests.states import bits
from tests.tta_server.runtime.apart import taught, telling, told
from tests.tta_server.runtime.fakes import WHO, Scripted, ask, bright, dark, learn_all, rows, tiny, value, wired
from tta_server import adapters
from tta_server.adapters.checkpoint import dump_state
from tta_server.errors import BadRequest, Conflict, NotFound
from tta_server.guard.verdict import Finding
from tta_server.telemetry.metrics import render


# Offering
def test_an_offered_domain_answers_in_the_other_stream_as_in_its_own(tmp_path: Path):
    subject = taught(storage=str(tmp_path))
    subject.commands.domains.rename("door", 1, "night", WHO)
    for name in ("yard", "gate"):
        ask(subject, name, rows(16))

    opened = subject.commands.domains.offer("door", 1, ["yard", "gate"], WHO)

    assert opened == ["yard@1", "gate@1"]
    here, there = subject.stream("door@1"), subject.stream("gate@1")
    assert bits(there.state) == bits(here.state)
    assert (there.title, there.steps, there.place) == ("night", here.steps, here.place)
    answers = [ask(subject, name, dark(16, 50)) for name in ("door", "yard", "gate")]
    assert [set(answer.domains) for answer in answers] == [{"door@1"}, {"yard@1"}, {"gate@1"}]
    assert np.array_equal(answers[0].probabilities, answers[1].probabilities)
    lines = [entry for entry in subject.audited() if entry.who == WHO.name]
    assert [(entry.stream, entry.event) for entry in lines] == [
        ("door@1", "rename"),
        ("yard", "open"),
        ("yard@1", "import"),
        ("gate", "open"),
        ("gate@1", "import"),
        ("door@1", "offer"),
    ]
    assert [entry.extra.get("from") for entry in lines[1:5]] == ["door@1"] * 4
    assert lines[-1].extra == {"to": ["yard", "gate"]}


def test_what_is_offered_and_its_copy_learn_apart():
    subject = taught()
    ask(subject, "yard", rows(16))
    subject.commands.domains.offer("door", 1, ["yard"], WHO)
    before = bits(subject.stream("door@1").state)

    ask(subject, "yard", dark(16, 70))
    learn_all(subject)

    assert bits(subject.stream("door@1").state) == before != bits(subject.stream("yard@1").state)


def test_a_domain_is_offered_to_all_or_none():
    subject = taught()
    ask(subject, "yard", rows(16))
    subject.commands.create("gate", None, subject.method("tent", lr=0.5), WHO)

    def refused(error: type[Exception], reason: str, number: int = 1, *to: str) -> None:
        with pytest.raises(error, match=reason):
            subject.commands.domains.offer("door", number, ["yard", *to], WHO)
        assert list(told(subject, "yard")) == ["source"]

    refused(NotFound, "unknown stream 'nobody'", 1, "nobody")
    refused(NotFound, "has no domain 7", 7)
    refused(BadRequest, "stream 'gate' learns by .*they must be the same", 1, "gate")
    refused(BadRequest, "stream 'door' has the domain 'door@1' already", 1, "door")
    refused(BadRequest, "'door@2' is a domain itself", 1, "door@2")
    subject.commands.reset("door@1", WHO)
    refused(Conflict, "domain 'door@1' has learnt nothing yet", 1)


def test_a_stream_takes_no_more_domains_than_it_may_have():
    subject = telling(domains=2)
    for name, looks in (("door", [dark]), ("yard", [dark, bright])):
        for look in looks:
            ask(subject, name, look(16))
            learn_all(subject)

    with pytest.raises(Conflict, match="stream 'yard' has 2 domains already; delete one first"):
        subject.commands.domains.offer("door", 1, ["yard"], WHO)
    with pytest.raises(Conflict, match="has 2 domains already"):
        subject.commands.states.adopt("yard", subject.commands.states.export("door@1"), WHO)


class Strict(Scripted):
    """Takes over no state from outside."""

    def weigh(self, memory, x, frozen, answered):
        return memory, "adapted"

    def vet(self, state, initial, closely=True):
        return Finding("reject", "trust_region", "it lies too far out") if closely else None


def test_a_guard_that_does_not_let_a_domain_pass_refuses_it():
    subject = taught(judge=Strict(("pass",)))
    ask(subject, "yard", rows(16))

    with pytest.raises(BadRequest, match="stream 'yard' does not take the state over: it lies too far out"):
        subject.commands.domains.offer("door", 1, ["yard"], WHO)


# Files
@pytest.mark.parametrize("name", ["yard", "new"])
def test_a_file_of_a_domain_opens_one_on_another_server(name: str, tmp_path: Path):
    here, there = taught(), telling(storage=str(tmp_path))
    here.commands.domains.rename("door", 1, "night", WHO)
    ask(there, "yard", rows(16))

    about = there.commands.states.adopt(name, here.commands.states.export("door@1"), WHO)

    assert (about["name"], about["steps"]) == (f"{name}@1", 1)
    assert told(there, name)[f"{name}@1"]["title"] == "night"
    answer = ask(there, name, dark(16, 50))
    assert set(answer.domains) == {f"{name}@1"}
    assert np.array_equal(answer.probabilities, ask(here, "door", dark(16, 50)).probabilities)
    assert [(each.stream, each.event, each.who, each.reason) for each in there.audited()][:2] == [
        (name, "open", *WHO[:2]),
        (f"{name}@1", "import", *WHO[:2]),
    ]


def test_a_file_goes_into_a_domain_that_is_named_and_leaves_it_where_it_lies():
    subject = taught()
    place, dark_state = subject.stream("door@2").place, bits(subject.stream("door@1").state)

    subject.commands.states.adopt("door@2", subject.commands.states.export("door@1"), WHO)

    assert bits(subject.stream("door@2").state) == dark_state
    assert subject.stream("door@2").place is place
    with pytest.raises(NotFound):
        subject.commands.states.adopt("door@7", subject.commands.states.export("door@1"), WHO)


def test_a_file_of_a_domain_goes_into_a_stream_with_one_state():
    subject, alone = taught(), wired(adapter=adapters.create("tent", lr=0.01))

    about = alone.commands.states.adopt("yard", subject.commands.states.export("door@1"), WHO)

    assert (about["name"], about["steps"]) == ("yard", 1)
    assert bits(alone.stream("yard").state) == bits(subject.stream("door@1").state)


def test_a_file_that_does_not_say_where_its_domain_lies_opens_none():
    subject = taught()
    domain = subject.stream("door@1")
    bare = dump_state(domain.method.adapter, tiny(), domain.state)

    for name in ("door", "new"):
        with pytest.raises(BadRequest, match="does not say where its domain lies"):
            subject.commands.states.adopt(name, bare, WHO)

    assert list(told(subject)) == ["source", "door@1", "door@2"]
    assert "new" not in subject.worker.parts.registry


# Metrics
def test_what_happens_to_domains_is_counted():
    subject = taught()
    ask(subject, "door", dark(16, 5))
    ask(subject, "door", dark(16, 6))
    ask(subject, "door", rows(16, 7))

    def of(name: str, **labels: str) -> float:
        return value(subject.metrics, name, stream="door", **labels)

    assert of("tta_domain_events_total", event="opened") == 2
    assert of("tta_domain_events_total", event="recalled") == 1
    assert (of("tta_stream_domains"), of("tta_stream_at_home")) == (2, 1)
    assert of("tta_domain_distance_ratio") == of("tta_source_distance_ratio") < 3
    ask(subject, "door", bright(16, 8))
    assert of("tta_domain_events_total", event="recalled") == 2
    assert of("tta_stream_at_home") == 0
    assert of("tta_domain_distance_ratio") < 3 < of("tta_source_distance_ratio")
    subject.commands.delete("door@1", WHO)
    assert (of("tta_stream_domains"), of("tta_domain_events_total", event="forgotten")) == (1, 1)
    subject.commands.reset("door", WHO)
    assert (of("tta_stream_domains"), of("tta_stream_at_home")) == (0, 1)
    subject.commands.delete("door", WHO)
    assert 'stream="door"' not in render([subject.metrics]).decode()


# Memory
def test_where_memory_is_short_domains_are_offered_taken_and_changed_as_elsewhere():
    subject, roomy = taught(), taught()
    registry = subject.worker.parts.registry
    registry._settings = registry._settings.model_copy(update={"max_bytes": 1})

    for each in (subject, roomy):
        ask(each, "yard", rows(16))
        each.commands.domains.offer("door", 1, ["yard"], WHO)
        each.commands.states.adopt("yard", each.commands.states.export("door@2"), WHO)
        each.commands.change("door", None, each.method("tent", lr=0.02), WHO)
        each.commands.change("door", "shadow", None, WHO)
        each.commands.domains.rename("door", 2, "glare", WHO)

    for name in ("door@1", "door@2", "yard@1", "yard@2"):
        here, there = subject.stream(name), roomy.stream(name)
        assert bits(here.state) == bits(there.state)
        assert (here.mode, here.method.adapter, here.title) == (there.mode, there.method.adapter, there.title)
    looks = (rows(16, 80), dark(16, 81), bright(16, 82))
    for images in looks:
        answers = [ask(each, "yard", images) for each in (subject, roomy)]
        assert answers[0].domains == answers[1].domains
        assert np.array_equal(answers[0].probabilities, answers[1].probabilities)
