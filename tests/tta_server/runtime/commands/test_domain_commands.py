"""What operators may do to a stream that keeps a state for each domain, and to its domains."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.states import bits
from tests.tta_server.runtime.apart import taught, telling, told
from tests.tta_server.runtime.fakes import (
    WHO,
    Wired,
    ask,
    bright,
    dark,
    learn_all,
    rows,
    value,
    wired,
)
from tests.tta_server.runtime.taught import frozen
from tta_server.errors import BadRequest, Conflict, NotFound, SetAside
from tta_server.names import number_of

PATIENCE_S = 30
ONE_STATE = "keeps a state for each of its domains; "


# Domains are seen
def test_home_and_each_domain_are_described():
    subject = taught()
    ask(subject, "door", bright(8, 9))

    found = told(subject)

    assert list(found) == ["source", "door@1", "door@2"]
    assert [each["images"] for each in found.values()] == [16, 16, 24]
    assert [each["steps"] for each in found.values()] == [0, 1, 1]
    assert [each["answers"] for each in found.values()] == ["source", "adapted", "adapted"]
    assert [each["current"] for each in found.values()] == [False, False, True]
    assert sum(each["share"] for each in found.values()) == pytest.approx(1)
    assert found["source"]["share"] < found["door@1"]["share"] < found["door@2"]["share"]
    assert (found["source"]["distance"], found["source"]["spread"], found["source"]["bytes"]) == (0, 1, 0)
    assert found["door@1"]["distance"] > 1
    assert found["door@1"]["spread"] >= 1
    assert found["door@1"]["bytes"] > 0
    assert found["source"]["last_asked"] <= found["door@1"]["last_asked"] <= found["door@2"]["last_asked"]
    assert found["door@1"]["since"]
    assert subject.commands.read("door")["domains"] == ["door@1", "door@2"]
    assert subject.commands.read("door@1")["domains"] == []


@pytest.mark.parametrize("name", ["door", "door@1"])
def test_what_is_on_disk_is_described_as_before(name: str):
    subject = taught()
    before = told(subject)
    subject.commands.evict(name)

    after = told(subject)

    assert after["door@1"] == before["door@1"] | {"in_memory": False, "bytes": 0}
    assert after["source"] == before["source"]


def test_after_a_restart_domains_are_described_as_before(tmp_path: Path):
    before = taught(storage=str(tmp_path))
    before.commands.domains.rename("door", 1, "night", WHO)
    expected = told(before)
    before.commands.save()
    before.kept.keeper.close()

    after = told(telling(storage=str(tmp_path)))

    on_disk = {"in_memory": False, "bytes": 0}
    assert after == {name: about | (on_disk if "@" in name else {}) for name, about in expected.items()}
    assert after["door@1"]["title"] == "night"


def test_a_domain_that_cannot_go_on_says_why():
    subject = taught()
    subject.worker.parts.registry.set_aside("door@1", ValueError("its file is torn"))

    found = told(subject)

    assert (found["door@1"]["trouble"], found["door@1"]["distance"]) == ("its file is torn", None)
    assert found["door@2"]["trouble"] == ""
    assert sum(each["share"] for each in found.values()) == pytest.approx(1)


def test_only_streams_that_tell_domains_apart_have_some_to_describe():
    subject = taught()

    with pytest.raises(BadRequest, match="'door@1' is a domain itself; name its stream, 'door'"):
        subject.commands.domains.describe("door@1")
    with pytest.raises(NotFound):
        subject.commands.domains.describe("yard")
    alone = wired()
    ask(alone, "door", rows(4))
    with pytest.raises(BadRequest, match="tells no domains apart"):
        alone.commands.domains.describe("door")


# Commands on a stream
def test_a_mode_is_that_of_the_stream_and_of_its_domains_wherever_they_are():
    subject = taught()
    subject.commands.evict("door@1")

    subject.commands.change("door", "shadow", None, WHO)

    assert {subject.stream(name).mode for name in ("door", "door@1", "door@2")} == {"shadow"}
    assert np.array_equal(ask(subject, "door", dark(16)).probabilities, frozen(dark(16)))


def test_a_mode_lifts_the_freeze_of_a_domain_and_a_mode_of_all_streams_does_not():
    subject = taught()
    domain = subject.stream("door@1")
    domain.mode, domain.frozen = "off", "it was taken back too often"

    subject.commands.change_all("shadow", WHO)
    assert (domain.mode, subject.stream("door@2").mode, domain.frozen != "") == ("off", "shadow", True)
    assert domain.parent is subject.stream("door")

    subject.commands.change("door", "after", None, WHO)
    assert (domain.mode, subject.stream("door@2").mode, domain.frozen) == ("after", "after", "")


def test_domains_learn_as_their_stream_does():
    subject = taught()
    before = bits(subject.stream("door@1").state)

    subject.commands.change("door", None, subject.method("tent", lr=0.02), WHO)
    names = ("door", "door@1", "door@2")
    assert {subject.stream(name).method.adapter.lr for name in names} == {0.02}
    assert bits(subject.stream("door@1").state) == before
    subject.commands.change("door", None, subject.method("rotta"), WHO)
    assert {subject.stream(name).method.adapter.name for name in names} == {"rotta"}
    assert {subject.stream(name).steps for name in names} == {0}

    with pytest.raises(BadRequest, match="a domain learns as its stream does; change stream 'door'"):
        subject.commands.change("door@1", None, subject.method("bn"), WHO)


def test_a_reset_of_a_stream_forgets_its_domains_and_their_numbers_are_not_used_again(tmp_path: Path):
    subject = taught(storage=str(tmp_path))
    ask(subject, "door", bright(8, 9))

    about, _ = subject.commands.reset("door", WHO)

    assert (about["domains"], about["dropped"]["reset"], about["answers"]) == ([], 8, "source")
    assert list(told(subject)) == ["source"]
    assert np.array_equal(ask(subject, "door", rows(16)).probabilities, frozen(rows(16)))
    assert subject.kept.keeper.flush(PATIENCE_S)
    assert list(subject.kept.store.names()) == ["door"]
    ask(subject, "door", dark(16))
    assert list(told(subject)) == ["source", "door@3"]
    assert [entry.extra for entry in subject.audited() if entry.event == "reset"] == [{"domains": ["door@1", "door@2"]}]


@pytest.mark.parametrize(
    "command",
    [
        lambda c, name: c.rollback(name, None, WHO),
        lambda c, name: c.states.snapshot(name, ""),
        lambda c, name: c.states.restore(name, "x", WHO),
        lambda c, name: c.states.export(name),
    ],
    ids=["rollback", "snapshot", "restore", "export"],
)
def test_what_needs_one_state_names_the_domains(command):
    subject = taught()
    ask(subject, "yard", rows(16))

    with pytest.raises(Conflict, match=f"stream 'door' {ONE_STATE}name one: door@1, door@2"):
        command(subject.commands, "door")
    with pytest.raises(Conflict, match=f"stream 'yard' {ONE_STATE}it has none yet"):
        command(subject.commands, "yard")


# Commands on a domain
def test_a_domain_is_rolled_back_kept_and_restored_by_its_name(tmp_path: Path):
    subject = taught(storage=str(tmp_path))
    first = bits(subject.stream("door@2").state)
    snapshot = subject.commands.states.snapshot("door@2", "").result(PATIENCE_S)
    subject.commands.states.note_snapshot("door@2", snapshot, WHO)
    ask(subject, "door", bright(16, 7))
    learn_all(subject)
    assert bits(subject.stream("door@2").state) != first
    version = subject.stream("door@2").history.versions[0]

    subject.commands.rollback("door@2", version, WHO)
    assert bits(subject.stream("door@2").state) == first
    subject.commands.reset("door@2", WHO)
    assert subject.stream("door@2").steps == 0
    subject.commands.states.restore("door@2", snapshot, WHO)

    assert bits(subject.stream("door@2").state) == first
    assert ask(subject, "door", bright(16, 7)).domains == ("door@2",) * 16
    assert list(told(subject)) == ["source", "door@1", "door@2"]


def test_a_deleted_domain_is_gone_and_the_next_image_of_its_kind_opens_a_new_one(tmp_path: Path):
    subject = taught(storage=str(tmp_path))
    ask(subject, "door", bright(8, 9))

    subject.commands.delete("door@2", WHO).result(PATIENCE_S)

    assert subject.commands.read("door")["answers"] == "source"
    assert subject.stream("door").dropped["reset"] == 8
    assert list(told(subject)) == ["source", "door@1"]
    assert [entry.event for entry in subject.audited() if entry.stream == "door@2"][-1] == "delete"
    assert ask(subject, "door", bright(16)).domains == ("door@3",) * 16
    with pytest.raises(NotFound):
        subject.commands.delete("door@2", WHO)


def test_a_domain_of_a_stream_that_is_on_disk_is_deleted(tmp_path: Path):
    subject = taught(storage=str(tmp_path))
    subject.commands.evict("door")

    subject.commands.delete("door@1", WHO).result(PATIENCE_S)

    assert list(told(subject)) == ["source", "door@2"]


def test_a_domain_of_a_stream_that_cannot_go_on_is_deleted():
    subject = taught()
    subject.worker.parts.registry.set_aside("door", ValueError("torn"))

    subject.commands.delete("door@1", WHO).result(PATIENCE_S)

    assert subject.worker.parts.registry.domain_names("door") == ["door@2"]
    with pytest.raises(SetAside):
        subject.commands.domains.describe("door")


def test_a_domain_is_renamed_also_on_disk(tmp_path: Path):
    subject = taught(storage=str(tmp_path))
    subject.commands.evict("door@1")

    about = subject.commands.domains.rename("door", 1, "night", WHO)

    assert (about["id"], about["title"]) == ("door@1", "night")
    line = subject.audited()[-1]
    assert (line.stream, line.event, line.who, line.reason) == ("door@1", "rename", *WHO[:2])
    assert line.extra == {"title": "night", "before": ""}
    with pytest.raises(NotFound, match="stream 'door' has no domain 3; it has door@1, door@2"):
        subject.commands.domains.rename("door", 3, "fog", WHO)


# Accounts
LOOKS = {"home": rows, "dark": dark, "bright": bright}
ACTIONS = ("learn", "erase", "reset", "reset a domain", "evict", "evict a domain", "offer", "take")


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([*LOOKS, *ACTIONS]), st.integers(4, 20)), min_size=3, max_size=12))
def test_every_image_of_a_domain_is_learnt_from_dropped_or_waits_whatever_operators_do(script):
    subject = telling()
    ask(subject, "yard", rows(16))
    for seed, (what, count) in enumerate([("dark", 16), *script]):
        names = subject.worker.parts.registry.domain_names("door")
        if what in LOOKS:
            ask(subject, "door", LOOKS[what](count, seed))
        elif what == "learn":
            learn_all(subject)
        elif what == "reset":
            subject.commands.reset("door", WHO)
        elif what == "evict" and "door" in names_in_memory(subject):
            subject.commands.evict("door")
        elif names:
            steer(subject, what, names[count % len(names)])

    about, listed = subject.commands.read("door"), told(subject)
    waiting = sum(subject.commands.read(name)["images_in_window"] for name in about["domains"])
    offered = value(subject.metrics, "tta_samples_offered_total", stream="door")
    counted = [value(subject.metrics, f"tta_samples_{what}_total", stream="door") for what in ("learnt", "dropped")]
    assert list(listed) == ["source", *about["domains"]]
    assert value(subject.metrics, "tta_stream_domains", stream="door") == len(about["domains"])
    if "evict" not in [what for what, _ in script]:  # series begin anew with a stream that comes back
        assert offered == sum(counted) + waiting
        assert counted == [about["images_learnt"], about["images_dropped"]]


def names_in_memory(subject: Wired) -> list[str]:
    return [stream.name for stream in subject.worker.parts.registry.every_stream_in_memory()]


def steer(subject: Wired, what: str, domain: str) -> None:
    """Do something to a domain, if that can be done to it now."""
    if what == "erase":
        subject.commands.delete(domain, WHO)
    if what == "reset a domain":
        subject.commands.reset(domain, WHO)
    if what == "evict a domain" and domain in names_in_memory(subject):
        subject.commands.evict(domain)
    if what in ("offer", "take") and subject.stream(domain).steps:
        if what == "offer":
            subject.commands.domains.offer("door", number_of(domain), ["yard"], WHO)
        else:
            subject.commands.states.adopt("door", subject.commands.states.export(domain), WHO)
