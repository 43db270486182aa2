"""No adapter's parameters grow without the guard seeing it: over the registry."""

import pytest
import torch

from tests.tta_server.guard.streams import clean, foggy, make_guard, model
from tta_server import adapters
from tta_server.adapters import Step
from tta_server.guard.trust import Trust
from tta_server.settings import GuardSettings

WINDOW = 16
FEWER = {"cotta": {"views": 2}, "vida": {"views": 2}}  # for speed


class Case:
    """A stream on the embedded model, one step on, and what the guard says of a state that a step might lead to."""

    def __init__(self, name):
        self.adapter = adapters.create(name, **FEWER.get(name, {}))
        self.backbone, reference = model().backbone, model().reference
        self.initial = self.adapter.init(self.backbone, reference)
        self.held = {n for region in self.adapter.regions(self.backbone, self.initial) for n in region.names}
        self.x = foggy(clean(0, WINDOW))
        self.state = self.adapter.adapt(self.backbone, self.initial, self.x).state

    def scaled(self, state):
        return {name: tensor * 1000 if name in self.held else tensor for name, tensor in state.items()}

    def judged(self, old, new):
        guard, frozen = make_guard(self.adapter), self.backbone.forward(self.x)
        memory = guard.admit(guard.start(), self.x, frozen).memory
        step = Step(new, self.adapter.predict(self.backbone, new, self.x), {"accepted": torch.tensor(True)})
        return guard.judge(memory, old, step, self.x, frozen, self.adapter.predict(self.backbone, old, self.x))


def learning():
    made = ((name, adapters.create(name)) for name in adapters.names())
    return [n for n, a in made if a.regions(model().backbone, a.init(model().backbone, model().reference))]


@pytest.mark.parametrize("name", learning())
def test_a_step_that_scales_parameters_a_thousand_times_is_never_healthy(name):
    case = Case(name)

    verdict = case.judged(case.state, case.scaled(case.state))

    assert (verdict.action, verdict.cause) != ("commit", "healthy")
    assert verdict.state is case.state or verdict.action != "commit"


@pytest.mark.parametrize("name", learning())
def test_parameters_that_are_far_already_are_drawn_back_by_the_next_step(name):
    case, far = Case(name), GuardSettings().max_distance
    scaled = case.scaled(case.state)

    verdict = case.judged(scaled, scaled)

    if verdict.action == "commit":
        assert verdict.cause in ("trust_region", "contradicted")  # the second says more: who answers
        assert Trust(case.adapter, case.backbone, case.initial).distance(verdict.state) <= far


@pytest.mark.parametrize("name", learning())
def test_an_honest_step_is_no_large_update(name):
    case = Case(name)
    trust = Trust(case.adapter, case.backbone, case.initial)

    assert trust.update(case.initial, case.state) < GuardSettings().max_update / 2
    assert trust.distance(case.state) < GuardSettings().max_distance / 2
