"""Adapters that are broken on purpose: `check` names the law that each breaks."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from tests.networks import layer_norm_network
from tta_server import adapters
from tta_server.adapters import Step
from tta_server.adapters.declared import Part, Region
from tta_server.adapters.eata import Eata
from tta_server.adapters.laws import LAWS, BrokenLawError, check
from tta_server.adapters.source import Source
from tta_server.adapters.tent import Tent
from tta_server.models import TorchBackbone

YES = torch.tensor(True)


@dataclass(frozen=True)
class Loose(Tent):
    """A setting without bounds."""

    rate: float = 1.0


@dataclass(frozen=True)
class InPlace(Tent):
    def adapt(self, backbone, state, x):
        step = super().adapt(backbone, state, x)
        for name, tensor in step.state.items():
            if name.startswith("momentum/"):
                state[name].copy_(tensor)
        return step


@dataclass(frozen=True)
class Borrowed(Tent):
    def init(self, backbone, reference=None):
        return {**super().init(backbone), **{f"theta/{n}": tensor for n, tensor in backbone.norm_affine().items()}}


@dataclass(frozen=True)
class TwoMinds(Tent):
    """Answers from stored statistics what it says it answers from the batch's."""

    stats: Any = "batch"

    def predict(self, backbone, state, x):
        return backbone.forward(x)


@dataclass(frozen=True)
class SecretlyCoupled(Source):
    def predict(self, backbone, state, x):
        return backbone.forward(x, statistics="batch")


@dataclass(frozen=True)
class Counting(Source):
    """Keeps what it learns outside of the state."""

    seen: ClassVar[list[int]] = []

    def init(self, backbone, reference=None):
        return {"theta/count": torch.zeros(())}

    def adapt(self, backbone, state, x):
        self.seen.append(1)
        return Step({"theta/count": torch.tensor(float(len(self.seen)))}, backbone.forward(x), {"accepted": YES})


@dataclass(frozen=True)
class Growing(Source):
    def adapt(self, backbone, state, x):
        return Step({**state, f"theta/{len(state)}": torch.zeros(2)}, backbone.forward(x), {"accepted": YES})


@dataclass(frozen=True)
class Seedless(Source):
    stackable: ClassVar[bool] = False

    def adapt(self, backbone, state, x):
        torch.randn(3, generator=torch.Generator().manual_seed(0))
        return super().adapt(backbone, state, x)


@dataclass(frozen=True)
class Trusting(Tent):
    """Takes over whatever comes out."""

    def adapt(self, backbone, state, x):
        theta = {name: tensor + x.mean() if "theta/" in name else tensor for name, tensor in state.items()}
        return Step(theta, backbone.forward(x), {"accepted": YES})


@dataclass(frozen=True)
class Impatient(Source):
    """Moves a number although it says that it accepted nothing."""

    def init(self, backbone, reference=None):
        return {"count/steps": torch.zeros(())}

    def adapt(self, backbone, state, x):
        return Step({"count/steps": state["count/steps"] + 1}, backbone.forward(x), {"accepted": ~YES})


@dataclass(frozen=True)
class Lonely(Source):
    """Says of one image what is no number."""

    def predict(self, backbone, state, x):
        output = backbone.forward(x)
        return output._replace(logits=output.logits * (torch.nan if len(x) == 1 else 1))


@dataclass(frozen=True)
class Branching(Tent):
    """Asks the host, which does not stack."""

    def adapt(self, backbone, state, x):
        return super().adapt(backbone, state, x) if x.mean() > 0 else super().adapt(backbone, state, 1 - x)


@dataclass(frozen=True)
class Waiting(Branching):
    stackable: ClassVar[bool] = False


@dataclass(frozen=True)
class Hidden(Source):
    """Answers with something that nothing is said of."""

    def init(self, backbone, reference=None):
        return {"theta/tilt": torch.zeros(backbone.spec.classes)}

    def predict(self, backbone, state, x):
        output = backbone.forward(x)
        return output._replace(logits=output.logits + state["theta/tilt"])


@dataclass(frozen=True)
class Together(Source):
    """Answers with how two tensors that nothing is said of differ."""

    def init(self, backbone, reference=None):
        return {f"theta/{name}": torch.zeros(backbone.spec.classes) for name in ("tilt", "back")}

    def predict(self, backbone, state, x):
        output = backbone.forward(x)
        return output._replace(logits=output.logits + state["theta/tilt"] - state["theta/back"])


@dataclass(frozen=True)
class FromNothing(Hidden):
    """Measures what begins at 0."""

    def regions(self, backbone, initial):
        return (Region.of(["theta/tilt"]),)


@dataclass(frozen=True)
class Blind(Tent):
    """Measures something else than what it holds."""

    def regions(self, backbone, initial):
        (region,) = super().regions(backbone, initial)
        return (Region(region.names, lambda state: [backbone.norm_affine()]),)


@dataclass(frozen=True)
class Dependent(Tent):
    def alone(self):
        return self


@dataclass(frozen=True)
class Restless(Eata):
    """Makes another part each time."""

    part: ClassVar[Part] = Part("fisher", "Fisher weights")

    def prepare(self, backbone, images):
        return {name: torch.rand_like(tensor) for name, tensor in backbone.norm_affine().items()}


@dataclass(frozen=True)
class Forgetful(Tent):
    """Writes itself into the class, so that a reset is none."""

    kept: ClassVar[dict] = {}

    def init(self, backbone, reference=None):
        return {**super().init(backbone), **self.kept}

    def adapt(self, backbone, state, x):
        step = super().adapt(backbone, state, x)
        if not self.kept:
            self.kept.update({n: tensor for n, tensor in step.state.items() if n.startswith("theta/")})
        return step


@dataclass(frozen=True)
class Hasty(Tent):
    """Begins with a step."""

    def begin(self, backbone, state, x):
        return self.adapt(backbone, state, x).state


@dataclass(frozen=True)
class Attached(Source):
    """Keeps what it computes of images as it is."""

    unbounded: ClassVar[frozenset[str]] = frozenset({"seen"})

    def init(self, backbone, reference=None):
        return {"seen/mean": torch.zeros(())}

    def adapt(self, backbone, state, x):
        mean = x.mean()
        kept = torch.where(mean.isfinite(), mean, state["seen/mean"])
        return Step({"seen/mean": kept}, backbone.forward(x), {"accepted": mean.isfinite()})


@dataclass(frozen=True)
class Generous(Source):
    """Has an answer to no image."""

    def predict(self, backbone, state, x):
        return super().predict(backbone, state, x if len(x) else x.new_zeros(1, *x.shape[1:]))


@dataclass(frozen=True)
class Terse(Tent):
    """Fails in inference mode, and does not say why."""

    def adapt(self, backbone, state, x):
        if torch.is_inference_mode_enabled():
            raise RuntimeError("no")
        return super().adapt(backbone, state, x)


BROKEN = {
    Loose: "settings_are_bounded",
    InPlace: "neither_verb_changes_the_state_or_the_backbone",
    Borrowed: "a_state_shares_no_memory_with_the_backbone",
    TwoMinds: "with_batch_statistics_adapt_answers_as_predict",
    SecretlyCoupled: "rows_do_not_depend_on_their_neighbours_unless_coupled",
    Counting: "learning_is_deterministic",
    Growing: "the_layout_of_a_state_never_changes",
    Attached: "no_gradient_gets_into_a_state",
    Generous: "what_is_no_batch_of_images_is_refused",
    Terse: "in_inference_mode_it_works_or_says_why_not",
    Seedless: "a_seed_moves_with_each_step_that_draws",
    Hasty: "begin_moves_nothing_but_statistics",
    Trusting: "a_step_that_is_not_accepted_leaves_the_state_bitwise",
    Impatient: "a_step_that_is_not_accepted_leaves_the_state_bitwise",
    Lonely: "a_batch_of_one_works_or_is_refused_before_anything_changes",
    Branching: "stacked_states_equal_the_loop_over_streams",
    Waiting: "neither_verb_makes_the_host_wait",
    Hidden: "answers_follow_only_what_is_declared",
    Together: "answers_follow_only_what_is_declared",
    FromNothing: "regions_measure_what_they_hold",
    Blind: "regions_measure_what_they_hold",
    Dependent: "alone_it_answers_without_moving_statistics",
    Restless: "a_fresh_state_takes_what_is_prepared",
}


@pytest.mark.parametrize(("broken", "law"), BROKEN.items())
def test_the_law_that_is_broken_is_named(broken, law):
    with pytest.raises(BrokenLawError, match=f"adapter '{broken.name}' breaks the law '{law}': ."):
        check(broken())


def test_a_reset_that_is_none_is_noticed():
    with pytest.raises(BrokenLawError):
        check(Forgetful())


@pytest.mark.parametrize("name", adapters.names())
def test_every_registered_adapter_passes_with_its_defaults(name):
    check(adapters.create(name, **({"views": 2} if name in ("cotta", "vida") else {})))


def test_an_adapter_can_be_checked_on_a_network_of_ones_own():
    check(adapters.create("tent"), TorchBackbone(layer_norm_network(), (3, 32, 32)))


def test_one_that_does_not_fit_the_network_is_refused():
    with pytest.raises(ValueError, match="needs batchnorm"):
        check(adapters.create("bn"), TorchBackbone(layer_norm_network(), (3, 32, 32)))


def test_nearly_every_law_has_an_adapter_that_breaks_it():
    untried = {law.__name__ for law in LAWS} - set(BROKEN.values())

    assert untried == {
        "streams_are_isolated",  # `Counting` would break it, were it deterministic
        "init_is_a_full_reset",  # `Forgetful`
        "a_non_finite_image_never_yields_a_non_finite_state",  # `Trusting` breaks another first
        "a_state_survives_being_written_and_read",
    }
