"""Few images cannot rule a batch's statistics, and many are left as the methods' papers have them."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from tests.states import bits
from tta_server import adapters, models
from tta_server.adapters.stack import adapt_stacked
from tta_server.models import glyphs
from tta_server.models.robust import robust
from tta_server.models.slots import median_moments


def test_enough_images_are_normalised_as_without(backbone, batch):
    assert torch.equal(
        robust(backbone, 16).forward(batch, statistics="batch").logits,
        backbone.forward(batch, statistics="batch").logits,
    )


@pytest.mark.parametrize("rows", [1, 4, 12])
def test_the_source_has_the_rest_of_a_small_batch(backbone, batch, rows):
    blended = robust(backbone, 16).forward(batch[:rows], statistics="batch").logits

    assert_close(blended, backbone.forward(batch[:rows], statistics=rows / 16).logits, rtol=0, atol=0)


def test_stored_statistics_are_left_alone(backbone, batch):
    assert torch.equal(robust(backbone, 16, median=True).forward(batch).logits, backbone.forward(batch).logits)


def test_a_network_without_batch_norm_is_itself(layer_norm_backbone):
    assert robust(layer_norm_backbone, 16, median=True) is layer_norm_backbone


def test_a_number_of_images_below_one_is_refused(backbone):
    with pytest.raises(ValueError, match="full_rows must be at least 1, got 0"):
        robust(backbone, 0)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(backbone, share):
    with pytest.raises(ValueError, match=r"source_share must be in \[0, 1\], got"):
        robust(backbone, 16, source_share=share)


def test_nothing_is_wrapped_where_nothing_is_asked_for(backbone):
    assert robust(backbone, 1) is backbone


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.01, 1), asked=st.sampled_from(["batch", 0.3]))
def test_the_share_of_the_source_stays_in_what_normalises_and_in_the_moments(backbone, batch, share, asked):
    found = robust(backbone, 1, source_share=share).forward(batch, statistics=asked)

    moves = (1 - share) * (1 if asked == "batch" else asked)
    plain = backbone.forward(batch, statistics=moves)
    assert torch.equal(found.logits, plain.logits)
    for name, source in backbone.norm_stats().items():
        own, mean = plain.moments[name], name.replace("running_var", "running_mean")
        between = share * (1 - share) * (plain.moments[mean] - backbone.norm_stats()[mean]).square()
        expected = share * source + (1 - share) * own + (between if name.endswith("running_var") else 0)
        assert_close(found.moments[name], expected)


@pytest.mark.parametrize("name", ["bn", "tent"])
def test_an_endless_stream_ends_up_between_the_source_and_its_own(backbone, batch, name):
    held, adapter = robust(backbone, 1, source_share=0.25), adapters.create(name)
    state = adapter.init(held)

    for _ in range(60):
        step = adapter.adapt(held, state, batch)
        state = step.state

    for layer, expected in held.forward(batch, {}, "batch").moments.items():
        if name == "bn":
            assert_close(state[f"stats/{layer}"], expected, rtol=0.02, atol=0.02)
    assert all(tensor.isfinite().all() for tensor in state.values())


@pytest.mark.parametrize("name", ["bn", "tent"])
def test_where_all_of_the_source_stays_no_statistic_moves(backbone, batch, name):
    held, adapter = robust(backbone, 16, source_share=1), adapters.create(name)
    state = adapter.init(held)

    begun, learnt = adapter.begin(held, state, batch), adapter.adapt(held, state, batch).state

    for moved in (begun, learnt):
        assert all(torch.equal(moved[key], tensor) for key, tensor in state.items() if key.startswith("stats/"))


@settings(deadline=None, max_examples=50)
@given(images=st.integers(5, 20), strange=st.integers(0, 9), size=st.floats(10, 1e6), seed=st.integers(0, 99))
def test_a_minority_of_images_cannot_move_the_median_out_of_the_rest(images, strange, size, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, images, 3, 4, 4, generator=generator, dtype=torch.float64)
    few = min(strange, (images - 1) // 2)
    x[:, :few] = size * torch.randn(1, few, 3, 4, 4, generator=generator, dtype=torch.float64)

    mean, _ = median_moments(x)

    rest = x[0, few:].mean((2, 3))
    assert (mean[0] >= rest.amin(0)).all()
    assert (mean[0] <= rest.amax(0)).all()


def test_a_fifth_of_noise_does_not_cost_the_neighbours_their_answers():
    backbone, (images, labels) = models.load("glyphs").backbone, glyphs.images("test")
    x, y = torch.from_numpy(images[:64]).float() / 255, torch.from_numpy(labels[:64])
    x[:12] += 1.5 * torch.randn(x[:12].shape)

    def error(median: bool) -> float:
        predicted = robust(backbone, 16, median).forward(x, statistics="batch").logits.argmax(1)
        return float((predicted != y)[12:].float().mean())

    assert error(median=False) > 0.2
    assert error(median=True) < 0.06


def test_the_gradient_goes_through_the_medians():
    x = torch.randn(1, 5, 2, 3, 3, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(median_moments, (x,))


@pytest.mark.parametrize(("rows", "median", "share"), [(16, True, 0), (4, False, 0), (16, False, 0.5), (4, False, 0.5)])
@pytest.mark.parametrize("name", ["bn", "tent"])
def test_stacked_streams_learn_what_single_ones_do(backbone, batches, name, rows, median, share):
    safer, adapter = robust(backbone, 16, median, share), adapters.create(name)
    state = adapter.init(safer)
    xs: Tensor = batches[:3, :rows]

    together = adapt_stacked(adapter, safer, [state] * 3, xs)

    for step, x in zip(together, xs, strict=True):
        alone = adapter.adapt(safer, state, x)
        assert_close(step.output.logits, alone.output.logits, rtol=0, atol=1e-5)
        assert_close(dict(step.state), dict(alone.state), rtol=0, atol=1e-5)
        assert bits(step.state) != bits(state)
