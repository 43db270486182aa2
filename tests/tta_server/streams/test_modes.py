"""Whose word on a stream's mode counts: its own, that of all streams, the configuration's; and after a restart."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tta_server.runtime.fakes import WHO, ask, close, dark, learn_all, rows, wired
from tests.tta_server.runtime.taught import frozen
from tta_server.runtime.commands.stream_commands import Commands
from tta_server.settings import Mode
from tta_server.settings_file import load_settings
from tta_server.streams.modes import Modes

MODES: tuple[Mode, ...] = ("after", "inline", "shadow", "off")


def modes(configured: Mode) -> Modes:
    return Modes(load_settings(None, {"streams": {"mode": configured}}).streams)


def of_mode(subject: Commands, name: str = "door") -> str:
    return str(subject.read(name)["mode"])


@given(st.sampled_from(MODES), st.none() | st.sampled_from(MODES), st.sampled_from(MODES), st.booleans())
def test_the_last_word_counts_and_the_configuration_s_where_there_is_none(configured, switched, own, before):
    subject = modes(configured)
    if before:
        subject.switch(switched)
    given_s = subject.switched_s or 1.0
    if not before:
        subject.switch(switched)

    found = subject.of("door", own, given_s)

    assert found[0] == (own if before else switched or configured)
    assert (found[1] == 0) == (not before and switched is None)
    assert subject.of("door", own, 0.0)[0] == (switched or configured)


@pytest.mark.parametrize("evicted", [False, True])
def test_a_stream_to_which_nobody_gave_a_mode_has_the_configuration_s_after_a_restart(tmp_path: Path, evicted):
    first = wired(storage=str(tmp_path))
    ask(first, "door", rows(4))
    ask(first, "gate", rows(4))
    first.commands.change("gate", "shadow", None, WHO)
    if evicted:
        first.commands.evict("door")
    first.commands.save()
    close()

    second = wired(storage=str(tmp_path), mode="off")

    assert (of_mode(second.commands), of_mode(second.commands, "gate")) == ("off", "shadow")


def test_what_all_streams_were_given_is_kept_by_those_in_memory_and_given_back_by_configured(tmp_path: Path):
    first = wired(storage=str(tmp_path))
    ask(first, "door", rows(4))
    first.commands.change_all("off", WHO)
    first.commands.save()
    close()
    second = wired(storage=str(tmp_path))
    kept = of_mode(second.commands)
    second.commands.change_all(None, WHO)
    second.commands.save()
    close()

    third = wired(storage=str(tmp_path), mode="shadow")

    assert (kept, of_mode(third.commands)) == ("off", "shadow")


def test_a_reset_that_lifts_a_freeze_leaves_the_mode_to_the_configuration(tmp_path: Path):
    first = wired(storage=str(tmp_path))
    ask(first, "door", rows(4))
    first.stream("door").mode, first.stream("door").frozen = "off", "taken back"
    first.commands.save()
    close()
    second = wired(storage=str(tmp_path), mode="inline")
    assert of_mode(second.commands) == "off"

    second.commands.reset("door", WHO)

    assert of_mode(second.commands) == "inline"


def test_domains_follow_the_configuration_as_their_stream_does(tmp_path: Path):
    first = wired(storage=str(tmp_path), domains=16)
    ask(first, "door", dark(4))
    first.commands.save()
    close()

    second = wired(storage=str(tmp_path), domains=16, mode="shadow")

    assert [of_mode(second.commands, name) for name in ("door", "door@1")] == ["shadow", "shadow"]


# The bundle comes later
@pytest.mark.parametrize("learnt", [False, True])
def test_a_stream_of_before_the_bundle_learns_in_domains_once_it_is_there(tmp_path: Path, learnt):
    first = wired(storage=str(tmp_path), domains=16, styleless=True)
    ask(first, "door", dark(4 if learnt else 2))
    learn_all(first)
    assert first.steps() == {"door": int(learnt)}
    first.commands.save()
    close()
    second = wired(storage=str(tmp_path), domains=16)

    for seed in (1, 2):
        answer = ask(second, "door", dark(4, seed))
        learn_all(second)

    assert set(answer.domains) == {"door@1"}
    assert second.stream("door@1").steps > 0
    told = [entry.event for entry in second.audited() if entry.stream == "door"]
    assert ("settings" in told) == learnt
    assert (second.commands.read("door")["steps"], of_mode(second.commands)) == (0, "after")


def test_a_stream_that_answered_from_one_state_keeps_it_until_it_is_reset(tmp_path: Path):
    first = wired(storage=str(tmp_path))
    ask(first, "door", dark(4))
    learn_all(first)
    first.commands.save()
    close()
    second = wired(storage=str(tmp_path), domains=16)
    kept = ask(second, "door", dark(4, 1))

    second.commands.reset("door", WHO)
    anew = ask(second, "door", dark(4, 2))

    assert (set(kept.domains), kept.adapted) == (set(), True)
    assert set(anew.domains) == {"door@1"}
    assert np.array_equal(anew.probabilities, frozen(dark(4, 2)))


def test_a_domain_that_was_on_disk_when_all_were_switched_has_its_stream_s_mode_after_a_restart(tmp_path: Path):
    first = wired(storage=str(tmp_path), domains=16)
    ask(first, "door", dark(4))
    first.commands.change("door", "off", None, WHO)
    first.commands.evict("door@1")
    first.commands.change_all("after", WHO)
    first.commands.save()
    close()

    second = wired(storage=str(tmp_path), domains=16)

    assert [of_mode(second.commands, name) for name in ("door", "door@1")] == ["after", "after"]


# A crash
def test_what_an_operator_opens_is_there_after_a_crash(tmp_path: Path):
    first = wired(storage=str(tmp_path))
    first.commands.create("door", "off", first.method("bn"), WHO)
    ask(first, "gate", rows(2))
    first.commands.states.note_snapshot("gate", first.commands.states.snapshot("gate", "").result(30), WHO)
    assert first.kept.keeper.flush(30)
    close()  # and nothing is saved at its end

    second = wired(storage=str(tmp_path))

    told = {each["name"]: (each["mode"], each["adapter"]) for each in second.commands.list().streams}
    assert told == {"door": ("off", "bn"), "gate": ("after", "tent")}
