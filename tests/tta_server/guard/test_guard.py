import re

import pytest
import torch

from tests.networks import reference_network
from tests.tta_server.guard.streams import clean, foggy, follow, judged, make_guard, model
from tta_server import adapters
from tta_server.adapters import Step
from tta_server.guard.guard import Guard
from tta_server.models import Output, TorchBackbone
from tta_server.settings import GuardSettings

WINDOW = 16
FEWER = {"cotta": {"views": 2}, "vida": {"views": 2}}  # for speed


@pytest.fixture(scope="module")
def tent():
    return adapters.create("tent")


@pytest.fixture(scope="module")
def guard(tent):
    return make_guard(tent)


@pytest.fixture(scope="module")
def drifting():
    return foggy(clean(0, WINDOW))


@pytest.fixture
def admitted(guard, tent, drifting):
    """Return a state, the memory after admission, and what both models answer to a window that drifts."""
    state = tent.init(model().backbone)
    begun = tent.begin(model().backbone, state, drifting)
    frozen, answered = model().backbone.forward(drifting), tent.predict(model().backbone, begun, drifting)
    memory = guard.admit(guard.start(), drifting, frozen).memory
    return state, memory, (frozen, answered)


def layout(memory):
    return {name: (tensor.shape, tensor.dtype) for name, tensor in memory.items()}


def moved(step, change):
    return Step({name: change(name, tensor) for name, tensor in step.state.items()}, step.output, step.scalars)


def test_drifting_images_are_learnt_from_and_answered_by_the_stream(guard, tent, admitted, drifting):
    state, memory, both = admitted
    step = tent.adapt(model().backbone, state, drifting)

    verdict = guard.judge(memory, state, step, drifting, *both)

    assert (verdict.action, verdict.cause, verdict.serve) == ("commit", "healthy", "adapted")
    assert verdict.state is step.state


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_window_that_is_not_finite_is_refused(guard, tent, drifting, broken):
    x = drifting.clone()
    x[3, 0, 0, 0] = broken
    memory = guard.start()

    admission = guard.admit(memory, x, model().backbone.forward(x))

    assert (admission.learn, admission.cause) == (False, "not_finite")
    assert all(torch.equal(admission.memory[name], memory[name]) for name in memory)


@pytest.mark.parametrize("group", ["theta", "momentum", "stats"])
def test_a_state_that_is_not_finite_is_refused(guard, tent, admitted, drifting, group):
    state, memory, both = admitted
    step = moved(
        tent.adapt(model().backbone, state, drifting),
        lambda name, tensor: tensor * torch.nan if name.startswith(group) else tensor,
    )

    verdict = guard.judge(memory, state, step, drifting, *both)

    assert (verdict.action, verdict.cause) == ("reject", "not_finite")
    assert verdict.state is state


def test_a_step_that_selected_nothing_is_refused(guard, tent, admitted, drifting):
    state, memory, both = admitted
    step = tent.adapt(model().backbone, state, drifting)
    step = step._replace(scalars=step.scalars | {"accepted": torch.tensor(False)})

    verdict = guard.judge(memory, state, step, drifting, *both)

    assert (verdict.action, verdict.cause) == ("reject", "nothing_selected")


def test_a_large_update_is_refused(guard, tent, admitted, drifting):
    state, memory, both = admitted
    step = moved(
        tent.adapt(model().backbone, state, drifting),
        lambda name, tensor: tensor + 1 if name.startswith("theta/") else tensor,
    )

    verdict = guard.judge(memory, state, step, drifting, *both)

    assert (verdict.action, verdict.cause) == ("reject", "update")
    assert verdict.measures["update_norm"] > 0.1


def test_a_step_out_of_the_trust_region_is_drawn_back(tent, admitted, drifting):
    strict = make_guard(tent, max_distance=1e-5)
    state, memory, both = admitted

    verdict = strict.judge(memory, state, tent.adapt(model().backbone, state, drifting), drifting, *both)

    assert (verdict.action, verdict.cause) == ("commit", "trust_region")
    assert 0 < verdict.measures["parameter_distance"] <= 1e-5


def test_copies_of_few_pictures_are_not_learnt_from(guard, tent):
    x = (foggy(clean(0, 4)).repeat(4, 1, 1, 1) + 0.004 * torch.rand(16, 3, 32, 32)).clamp(0, 1)

    admission = guard.admit(guard.start(), x, model().backbone.forward(x))

    assert (admission.learn, admission.cause) == (False, "too_few_pictures")
    assert "4 different pictures" in admission.reason


def test_parameters_that_no_longer_read_are_taken_back_and_then_reset(guard, tent, admitted, drifting):
    state, memory, both = admitted
    generator = torch.Generator().manual_seed(0)
    ruined = {
        name: tensor + 0.5 * tensor.norm() * torch.randn(tensor.shape, generator=generator) / tensor.numel() ** 0.5
        if name.startswith("theta/")
        else tensor
        for name, tensor in state.items()
    }
    bold = make_guard(tent, max_update=10, max_distance=10)
    step = tent.adapt(model().backbone, ruined, drifting)

    first = bold.judge(memory, state, step, drifting, *both)
    second = bold.judge(first.memory, state, step, drifting, *both)

    assert (first.action, first.cause) == ("rollback", "canary")
    assert second.action == "reset"
    assert first.measures["canary_accuracy"] < 0.6


def answers(logits):
    return Output(logits, torch.zeros(len(logits), model().backbone.spec.features))


def test_one_answer_to_everything_is_taken_back_unless_the_source_gives_it_too(tent, admitted, drifting):
    plain = Guard(model().backbone, tent, None, GuardSettings())  # without a bundle nothing else could notice
    state, _, _ = admitted
    varied = answers(20 * torch.eye(36)[torch.arange(WINDOW) * 2])
    alike = answers(20 * torch.eye(36)[torch.zeros(WINDOW, dtype=torch.long)])
    step = tent.adapt(model().backbone, state, drifting)

    def after(frozen):
        memory = plain.start()
        for _ in range(20):
            memory = plain.admit(memory, drifting, frozen).memory
            verdict = plain.judge(memory, state, step, drifting, frozen, alike)
            memory = verdict.memory
            if verdict.action != "commit":
                break
        return verdict.action, verdict.cause

    assert after(varied) == ("rollback", "diversity")
    assert after(alike) == ("commit", "healthy")


@pytest.fixture
def lost(drifting):
    """Return what the frozen model answers at home, and a stream that says otherwise and is lost on every image."""
    home = model().backbone.forward(clean(0, WINDOW))
    return home, home._replace(logits=home.logits.roll(1, 1), features=home.features + 100)


def test_the_source_answers_where_the_stream_is_contradicted_and_goes_on_learning(
    guard, tent, admitted, drifting, lost
):
    state, memory, _ = admitted
    step = tent.adapt(model().backbone, state, drifting)

    verdict = guard.judge(memory, state, step, drifting, *lost)

    assert (verdict.action, verdict.cause, verdict.serve) == ("commit", "contradicted", "source")
    assert re.search(r"credible on 1\d images and the stream's on 0", verdict.reason)
    assert verdict.measures["balance"] < -0.5
    assert verdict.measures["estimated_gain"] < -0.5


def test_what_the_step_makes_of_the_window_excuses_no_answer(guard, tent, admitted, drifting, lost):
    state, memory, _ = admitted
    home, badly = lost
    step = tent.adapt(model().backbone, state, drifting)._replace(output=home)

    assert guard.judge(memory, state, step, drifting, home, badly).serve == "source"


def test_the_stream_answers_again_as_soon_as_it_is_not_contradicted(guard, tent, admitted, drifting, lost):
    state, memory, _ = admitted
    home, badly = lost
    step = tent.adapt(model().backbone, state, drifting)

    memory = guard.judge(memory, state, step, drifting, home, badly).memory
    serves = []
    for _ in range(12):
        verdict = guard.judge(memory, state, step, drifting, badly, home)
        memory = verdict.memory
        serves.append(verdict.serve)

    assert serves[2:] == ["adapted"] * 10


def test_where_both_say_the_same_the_frozen_model_answers_at_first(guard, tent, admitted, drifting, lost):
    state, memory, _ = admitted
    home, badly = lost
    step = tent.adapt(model().backbone, state, drifting)

    verdict = guard.judge(memory, state, step, drifting, home, home._replace(features=badly.features))

    assert (verdict.serve, verdict.measures["balance"]) == ("source", 0)
    assert "answers until a gain shows" in verdict.reason


def test_before_the_first_step_each_look_counts_alone(guard, drifting, lost):
    home, badly = lost
    memory = guard.start()

    memory, first = guard.weigh(memory, drifting, home, badly)
    memory, second = guard.weigh(memory, drifting, badly, home)

    assert (first, second) == ("source", "adapted")
    assert layout(memory) == layout(guard.start())


def test_it_takes_less_to_refuse_a_beginner_than_a_stream_that_answers(guard, tent, admitted, drifting):
    state, memory, _ = admitted
    step = tent.adapt(model().backbone, state, drifting)
    sure = model().backbone.forward(clean(0, WINDOW))
    wrong = sure.logits.roll(1, 1)
    ours, theirs = torch.arange(WINDOW) < 5, torch.arange(WINDOW) >= 10  # five against six
    one = sure._replace(logits=torch.where(ours[:, None], wrong, sure.logits), features=sure.features.clone())
    other = sure._replace(logits=torch.where(theirs[:, None], wrong, sure.logits), features=sure.features.clone())
    one.features[theirs] += 100
    other.features[ours] += 100

    experienced = {**memory, "guard/answered": torch.tensor(1.0, dtype=torch.float64)}
    assert guard.weigh(memory, drifting, other, one)[1] == "source"
    assert guard.judge(memory, state, step, drifting, other, one).serve == "source"
    assert guard.judge(experienced, state, step, drifting, other, one).serve == "adapted"


def test_without_a_bundle_a_stream_answers_from_the_beginning(tent, drifting, lost):
    plain = Guard(model().backbone, tent, None, GuardSettings())

    assert plain.weigh(plain.start(), drifting, *lost)[1] == "adapted"


@pytest.mark.parametrize("name", ["lame", "adanpc"])
def test_methods_that_learn_no_parameters_are_judged_by_their_answers(name, drifting, lost):
    adapter = adapters.create(name)
    guard = make_guard(adapter)
    state = adapter.init(model().backbone, model().reference)
    step = adapter.adapt(model().backbone, state, drifting)

    assert guard.judge(guard.start(), state, step, drifting, *lost).serve == "source"


def test_answers_that_are_not_finite_take_the_stream_back(guard, tent, admitted, drifting):
    state, memory, (frozen, answered) = admitted
    step = tent.adapt(model().backbone, state, drifting)

    verdict = guard.judge(memory, state, step, drifting, frozen, answered._replace(logits=answered.logits * torch.nan))

    assert (verdict.action, verdict.cause) == ("rollback", "not_finite")


def test_the_layout_of_the_memory_never_changes_and_it_is_a_value(guard, tent):
    start = guard.start()
    before = {name: tensor.clone() for name, tensor in start.items()}

    trail = follow(guard, tent, [foggy(clean(16 * i, 16)) for i in range(5)] + [clean(0, 16)])

    assert layout(trail.memory) == layout(start)
    assert all(torch.equal(start[name], before[name]) for name in start)
    assert all(isinstance(tensor, torch.Tensor) and "/" in name for name, tensor in start.items())


def test_the_same_windows_give_the_same_memory_and_state_bitwise(tent):
    windows = [foggy(clean(16 * i, 16)) for i in range(6)]

    one, other = (follow(make_guard(tent), tent, windows) for _ in range(2))

    assert one.actions == other.actions
    assert all(torch.equal(one.memory[name], other.memory[name]) for name in one.memory)
    assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)


def test_other_streams_make_no_difference(guard, tent):
    windows = [foggy(clean(16 * i, 16)) for i in range(6)]
    alone = follow(guard, tent, windows)
    follow(guard, tent, [torch.rand(16, 3, 32, 32) for _ in range(3)])

    again = follow(guard, tent, windows)

    assert all(torch.equal(alone.memory[name], again.memory[name]) for name in alone.memory)


@pytest.mark.parametrize("name", adapters.names())
def test_every_adapter_can_be_guarded(name):
    adapter = adapters.create(name, **FEWER.get(name, {}))

    trail = follow(make_guard(adapter), adapter, [foggy(clean(16 * i, 16)) for i in range(3)])

    assert set(trail.actions) <= {"commit", "reject"}


def test_it_works_without_a_bundle():
    backbone = TorchBackbone(reference_network(), (3, 32, 32))
    tent = adapters.create("tent")
    guard = Guard(backbone, tent, None, GuardSettings())
    state, x = tent.init(backbone), clean(0, WINDOW)
    frozen = backbone.forward(x)

    admission = guard.admit(guard.start(), x, frozen)
    answered = tent.predict(backbone, state, x)
    verdict = guard.judge(admission.memory, state, tent.adapt(backbone, state, x), x, frozen, answered)

    assert admission.learn
    assert (verdict.action, verdict.serve) == ("commit", "adapted")


def test_without_a_canary_a_stream_passes_every_so_many_steps():
    tent = adapters.create("tent")
    guard = Guard(model().backbone, tent, None, GuardSettings(canary_every=3))
    state, memory, passed = tent.init(model().backbone), guard.start(), []
    for index in range(6):
        x = clean(16 * index, 16)
        verdict = judged(guard, tent, memory, state, x)
        state, memory = verdict.state, verdict.memory
        passed.append(verdict.passed)

    assert passed == [False, False, True] * 2
