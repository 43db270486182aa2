"""What the guard makes of images that are not learnt from: who answers, and nothing of what was learnt."""

import pytest
import torch

from tests.tta_server.guard.streams import clean, foggy, judged, make_guard, model
from tta_server import adapters
from tta_server.guard.judge import Unguarded
from tta_server.guard.record import Record

WINDOW = 16
TAKEN_BACK = {"guard/answered", "guard/adapted_shares", "guard/frozen_shares"}


@pytest.fixture(scope="module")
def learnt():
    """Return a guard, an adapter, and what a stream has learnt from two windows and what the guard remembers of it."""
    tent = adapters.create("tent")
    guard = make_guard(tent)
    state, memory = tent.init(model().backbone), guard.start()
    for start in (0, WINDOW):
        verdict = judged(guard, tent, memory, state, foggy(clean(start, WINDOW)))
        assert verdict.action == "commit"
        state, memory = verdict.state, verdict.memory
    return guard, tent, state, memory


@pytest.mark.parametrize("picture", [2, 21, 38, 61])
def test_however_often_one_picture_is_shown_what_was_learnt_stays(learnt, picture):
    guard, tent, state, memory = learnt
    backbone, x = model().backbone, foggy(clean(picture, 1)).expand(WINDOW, -1, -1, -1)
    said = backbone.forward(x), tent.predict(backbone, state, x)
    for _ in range(48):
        memory = guard.look(memory, x, *said).memory

    verdict = judged(guard, tent, memory, state, foggy(clean(2 * WINDOW, WINDOW)))

    assert verdict.action == "commit"
    assert {name for name in memory if not torch.equal(memory[name], learnt[3][name])}.isdisjoint(TAKEN_BACK)
    assert Record.of(memory).steps == Record.of(learnt[3]).steps


@pytest.mark.parametrize(
    ("stream_is_right", "serve", "cause"), [(True, "adapted", "healthy"), (False, "source", "contradicted")]
)
def test_who_is_credible_on_them_answers(learnt, stream_is_right, serve, cause):
    guard, _, _, memory = learnt
    home = model().backbone.forward(clean(0, WINDOW))
    lost = home._replace(logits=home.logits.roll(1, 1), features=home.features + 100)
    pair = (lost, home) if stream_is_right else (home, lost)

    for _ in range(4):
        found = guard.look(memory, clean(0, WINDOW), *pair)
        memory = found.memory

    assert (found.learn, found.serve, found.cause) == (False, serve, cause)


def test_before_the_first_step_it_is_weighed_as_a_beginning_is(learnt):
    guard, _, _, _ = learnt
    home = model().backbone.forward(clean(0, WINDOW))
    lost = home._replace(logits=home.logits.roll(1, 1), features=home.features + 100)

    for pair in ((home, lost), (lost, home)):
        found = guard.look(guard.start(), clean(0, WINDOW), *pair)
        memory, serve = guard.weigh(guard.start(), clean(0, WINDOW), *pair)
        assert found.serve == serve
        assert all(torch.equal(found.memory[name], memory[name]) for name in memory)


def test_without_numbers_and_without_a_guard_nothing_is_said_anew(learnt):
    guard, _, _, before = learnt
    home = model().backbone.forward(clean(0, WINDOW))
    after = guard.look(before, clean(0, WINDOW), home, home._replace(logits=home.logits * float("nan"))).memory

    assert all(torch.equal(after[name], before[name]) for name in before)
    assert Unguarded().look({}, clean(0, 1), home, home).serve == "adapted"
