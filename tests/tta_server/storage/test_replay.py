import os
import random
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from tests.networks import reference_network
from tests.states import bits
from tests.tta_server.storage.recorded import Recorded
from tta_server import adapters
from tta_server.adapters.checkpoint import dump_state, load_state, state_digest
from tta_server.models import TorchBackbone
from tta_server.storage.audit import Audit, Entry
from tta_server.storage.replay import Recipe, replay
from tta_server.storage.store import Store


@pytest.fixture
def tent():
    return adapters.create("tent", lr=1e-2)


@pytest.fixture
def stream(tent, backbone, batches) -> Recorded:
    return Recorded(tent, backbone, batches)


def test_an_empty_log_gives_the_source(stream):
    assert bits(replay([], stream.lesson).state) == bits(stream.initial)


def test_steps_are_taken_again(stream):
    for batch in range(4):
        stream.commit(batch)

    assert bits(replay(stream.entries, stream.lesson).state) == bits(stream.state)
    assert bits(replay(stream.entries, stream.lesson, until=2).state) == bits(stream.states[2])
    assert bits(replay(stream.entries, stream.lesson, until=0).state) == bits(stream.initial)


@pytest.mark.parametrize("slot", [0, 2])
def test_a_step_in_a_stack_is_taken_again_without_its_neighbours(stream, slot):
    stream.commit(0)
    stream.commit(1, size=3, slot=slot)
    stream.commit(2)

    assert bits(replay(stream.entries, stream.lesson).state) == bits(stream.state)


def test_after_a_crash_the_steps_that_were_lost_are_passed_over(stream):
    for batch in (0, 1, 2):
        stream.commit(batch)
    stream.crash(version=1)
    for batch in (3, 4):
        stream.commit(batch)

    assert bits(replay(stream.entries, stream.lesson).state) == bits(stream.state)
    assert bits(replay(stream.entries, stream.lesson, until=2).state) == bits(
        stream.states[2]
    )  # the second of that number


moves = st.lists(
    st.tuples(st.just("commit"), st.integers(0, 7))
    | st.tuples(st.sampled_from(["rollback", "restore", "load", "crash"]), st.integers(0, 6))
    | st.tuples(st.sampled_from(["reset", "skip"]), st.just(0)),
    max_size=7,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=moves)
def test_whatever_happened_to_a_stream_can_be_replayed(tent, backbone, batches, moves):
    stream = Recorded(tent, backbone, batches)
    for move, number in moves:
        version = number % (stream.version + 1)
        if move == "commit":
            stream.commit(number)
        elif move == "crash":
            stream.crash(version)
        elif move in ("reset", "skip"):
            getattr(stream, move)()
        else:
            stream.go_to(move, version)

    replayed = replay(stream.entries, stream.lesson).state

    if not moves or moves[-1][0] != "crash":  # of which the log does not know yet
        assert bits(replayed) == bits(stream.state)


def test_a_step_that_the_guard_drew_back_is_drawn_back_again(stream):
    def halve(state, step, x):
        return {name: (state[name] + tensor) / 2 for name, tensor in step.state.items()}

    step = stream.adapter.adapt(stream.backbone, stream.state, stream.batches[0])
    stream._move("commit", halve(stream.state, step, None), batch="0", extra={"projected": True})
    stream.commit(1)

    lesson = Recipe(stream.adapter, stream.backbone, None, stream.lesson.window, project=halve)
    assert bits(replay(stream.entries, lesson).state) == bits(stream.state)
    with pytest.raises(ValueError, match="give the guard's projection"):
        replay(stream.entries, stream.lesson)


def test_a_state_from_outside_comes_from_its_file(stream):
    stream.commit(0)
    other = stream.adapter.adapt(stream.backbone, stream.initial, stream.batches[5]).state
    stream._move("import", other)
    stream.commit(1)

    lesson = Recipe(stream.adapter, stream.backbone, None, stream.lesson.window, fetch=lambda entry: other)
    assert bits(replay(stream.entries, lesson).state) == bits(stream.state)
    with pytest.raises(ValueError, match="version 2 of stream 'camera' took over a state that no step in the log made"):
        replay(stream.entries, stream.lesson)


def test_a_stream_that_was_deleted_starts_from_the_source(stream):
    stream.commit(0)
    stream.entries.append(Entry("camera", "delete", 1, 1))
    stream.entries.append(Entry("camera", "create", 0, 0))
    stream.crash(0)
    stream.commit(3)

    assert bits(replay(stream.entries, stream.lesson).state) == bits(stream.state)


def test_steps_after_a_change_of_adapter_are_taken_with_the_new_one(stream):
    adam = adapters.create("tent", optimizer="adam", lr=1e-3)
    stream.commit(0)
    stream.initial = adam.init(stream.backbone)
    stream._move("settings", stream.initial, extra={"adapter": "tent"})
    stream.adapter = adam
    stream.commit(1)
    stream.reset()
    stream.commit(2)
    lesson = Recipe(adapters.create("tent", lr=1e-2), stream.backbone, None, stream.lesson.window)

    replayed = replay(stream.entries, replace(lesson, remake=lambda _: replace(lesson, adapter=adam))).state

    assert bits(replayed) == bits(stream.state)
    with pytest.raises(ValueError, match="version 2 of stream 'camera' has another adapter; give what makes it"):
        replay(stream.entries, lesson)


def test_a_stream_that_comes_back_after_its_deletion_has_the_usual_adapter(stream, tent):
    other = adapters.create("tent", lr=1e-3)
    stream.entries.append(Entry("camera", "settings", 0, 0, extra={"adapter": "tent"}))
    stream.adapter = other
    stream.commit(0)
    stream.entries.append(Entry("camera", "delete", 1, 1))
    stream.crash(0)
    stream.adapter = tent
    stream.commit(3)

    lesson = replace(stream.lesson, remake=lambda _: replace(stream.lesson, adapter=other))
    assert bits(replay(stream.entries, lesson).state) == bits(stream.state)


def test_a_state_that_is_not_what_the_log_says_is_refused_with_its_version(stream):
    for batch in range(3):
        stream.commit(batch)
    swapped = Recipe(stream.adapter, stream.backbone, None, lambda digest: stream.batches[{"1": 7}.get(digest, 0)])

    with pytest.raises(ValueError, match=r"version 2 of stream 'camera' gives state \w{12}, but the log says \w{12}"):
        replay(stream.entries, swapped)


def test_other_settings_do_not_pass_for_those_that_were_used(stream, backbone):
    stream.commit(0)

    with pytest.raises(ValueError, match="version 1 of stream 'camera' gives state"):
        replay(stream.entries, Recipe(adapters.create("tent", lr=2e-2), backbone, None, stream.lesson.window))


def test_a_network_that_does_not_lie_as_the_log_says_is_refused_with_the_reason(stream):
    stream.commit(1)
    entry = replace(stream.entries[0], extra={"memory_format": "channels_last"})

    with pytest.raises(ValueError, match=r"version 1 .* in memory format 'channels_last', but the network is"):
        replay([entry], replace(stream.lesson, arrange=lambda _: stream.backbone))


def test_what_its_domains_did_raises_a_streams_version_and_leaves_its_state(stream):
    told = [
        Entry("camera", "open", 0, 0, extra={"domain": "camera@1"}),
        Entry("camera", "drift", 3, 3),
        Entry("camera", "load", 4, 4),
    ]
    domains = [Entry("camera@1", "begin", 0, 1), *(Entry("camera@1", "commit", i, i + 1, batch="0") for i in (1, 2, 3))]

    assert bits(replay(told, stream.lesson, domains=domains).state) == bits(stream.initial)
    with pytest.raises(ValueError, match="the log does not tell how version 3 came about"):
        replay(told, stream.lesson)
    with pytest.raises(ValueError, match="the log does not tell how version 3 came about"):
        replay(told, stream.lesson, domains=domains[:2])
    with pytest.raises(ValueError, match="expected lines of domains of 'camera', got one of 'door@1'"):
        replay(told, stream.lesson, domains=[Entry("door@1", "begin", 0, 1)])


def test_what_a_domain_was_begun_with_is_not_shown_and_what_it_has_learnt_since_is(stream):
    stream.commit(0)
    begun = [Entry("camera", "begin", 0, 1), Entry("camera", "mode", 1, 1)]
    learnt = [replace(entry, version_before=1, version_after=2) for entry in stream.entries]

    with pytest.raises(ValueError, match="version 1 of stream 'camera' has the statistics of a domain's first images"):
        replay(begun, stream.lesson)
    assert bits(replay([*begun, *learnt], stream.lesson).state) == bits(stream.state)


def test_a_log_that_lacks_its_beginning_is_refused(stream):
    for batch in range(3):
        stream.commit(batch)

    with pytest.raises(ValueError, match="the log does not tell how version 1 came about"):
        replay(stream.entries[1:], stream.lesson)


def test_a_log_that_begins_with_a_reset_is_enough(stream):
    stream.commit(0)
    stream.reset()
    stream.commit(1)

    assert bits(replay(stream.entries[1:], stream.lesson).state) == bits(stream.state)


def test_a_version_that_is_not_there_and_several_streams_are_refused(stream):
    stream.commit(0)

    with pytest.raises(ValueError, match="the log has no version 9"):
        replay(stream.entries, stream.lesson, until=9)
    with pytest.raises(ValueError, match="several streams"):
        replay([*stream.entries, Entry("door", "create", 0, 0)], stream.lesson)


FRESH = """
import sys
from safetensors.torch import load
from tta_server import adapters
from tta_server.adapters.checkpoint import state_digest
from tta_server.models import TorchBackbone
from tests.networks import reference_network
from tta_server.storage.audit import Audit
from tta_server.storage.replay import Recipe, replay
from tta_server.storage.store import Store

store = Store(sys.argv[1])
adapter = adapters.create("eata", fisher_alpha=0.0, lr=1e-2)
backbone = TorchBackbone(reference_network(), (3, 32, 32), name="reference")
lesson = Recipe(adapter, backbone, None, lambda digest: load(store.read_input("camera", digest))["x"])
print(state_digest(replay(Audit(store.files).entries("camera"), lesson).state))
"""


def test_a_fresh_process_rebuilds_the_state_from_what_is_on_disk(tmp_path, batches):
    store = Store(str(tmp_path))
    audit = Audit(store.files, segment_bytes=1000)
    adapter = adapters.create("eata", fisher_alpha=0.0, lr=1e-2)
    backbone = TorchBackbone(reference_network(), (3, 32, 32), name="reference")
    state, version, shuffled = adapter.init(backbone), 0, random.Random(0)
    for _ in range(12):
        batch = shuffled.randrange(8)
        step = adapter.adapt(backbone, state, batches[batch])
        digest = f"{batch:016x}"
        store.keep_input("camera", digest, save({"x": batches[batch].clone()}))
        state, version = step.state, version + 1
        told = Entry("camera", "commit", version - 1, version, batch=digest, rows=16, state=state_digest(state))
        audit.append([told])
    store.save("camera", version, dump_state(adapter, backbone, state))

    command = [sys.executable, "-c", FRESH, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "."}, check=True)

    assert answer.stdout.strip() == state_digest(load_state(adapter, backbone, store.load("camera")))
    assert load(store.load("camera")).keys() == state.keys()


def test_what_a_newer_server_did_is_gone_back_to_if_it_is_known_and_else_not_shown(stream):
    stream.commit(0)
    stream.commit(1)
    stream.go_to("of_a_newer_server", 1)

    assert bits(replay(stream.entries, stream.lesson).state) == bits(stream.states[1])

    stream.states[9] = {name: tensor + 1 for name, tensor in stream.state.items()}
    stream.go_to("of_a_newer_server", 9)
    with pytest.raises(ValueError, match="the log does not tell how version"):
        replay(stream.entries, stream.lesson)
