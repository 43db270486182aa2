import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from tests.networks import reference_network
from tta_server.adapters import create
from tta_server.adapters.moments import MIN_GAIN, check_rows, gain, init_stats, predict, track
from tta_server.models import TorchBackbone

FAST = settings(deadline=None, max_examples=100)
CHANNELS = 4


def vectors(low: float, high: float):
    values = st.floats(low, high, width=32)
    return st.lists(values, min_size=CHANNELS, max_size=CHANNELS).map(torch.tensor)


means, variances, noises = vectors(-100, 100), vectors(0, 100), vectors(0, 100)


def stored(mean: Tensor, var: Tensor) -> dict[str, Tensor]:
    return {"bn.running_mean": mean, "bn.running_var": var}


# The gain
@FAST
@given(mean=means, var=variances, window=means, noise=noises)
def test_the_gain_is_a_share_of_at_least_the_minimum(mean, var, window, noise):
    assert MIN_GAIN <= gain(mean, var, window, noise).item() <= 1


@FAST
@given(mean=means, var=vectors(1 / 64, 100), window=means, noise=noises)
def test_the_gain_is_one_less_noise_over_distance(mean, var, window, noise):
    mean, var, window, noise = (tensor.double() for tensor in (mean, var, window, noise))
    distance = sum((window[c] - mean[c]) ** 2 / var[c] for c in range(CHANNELS)) / CHANNELS
    expected = (distance - sum(noise[c] / var[c] for c in range(CHANNELS)) / CHANNELS) / max(distance, 1e-12)

    assert_close(gain(mean, var, window, noise).item(), min(max(float(expected), MIN_GAIN), 1), atol=1e-9, rtol=1e-9)


@FAST
@given(mean=means, var=variances, noise=noises)
def test_a_window_at_no_distance_gets_the_minimum(mean, var, noise):
    assert gain(mean, var, mean, noise).item() == pytest.approx(MIN_GAIN)


@FAST
@given(mean=means, var=vectors(1 / 64, 10), noise=vectors(0, 10))
def test_a_window_far_beyond_its_noise_gets_nearly_one(mean, var, noise):
    assert gain(mean, var, mean + 1e4, noise).item() > 0.99


@FAST
@given(mean=means, var=variances, window=means)
def test_an_unknown_noise_gets_the_minimum(mean, var, window):
    assert gain(mean, var, window, torch.full((CHANNELS,), torch.inf)).item() == pytest.approx(MIN_GAIN)


@FAST
@given(mean=means, var=vectors(1 / 64, 100), window=means, noise=noises)
def test_more_noise_never_raises_the_gain(mean, var, window, noise):
    assert gain(mean, var, window, noise * 2) <= gain(mean, var, window, noise)


def test_the_minimum_wins_for_windows_of_the_stored_distribution():
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(200):
        window = torch.randn(64, 32, generator=generator)
        shares.append(gain(torch.zeros(32), torch.ones(32), window.mean(0), window.var(0) / 64).item())

    # a fixed momentum of 0.3 would follow pure noise by 0.3 each time
    assert sum(shares) / len(shares) < 0.15


# Tracking
@FAST
@given(mean=means, var=variances, window=means, window_var=variances, noise=noises, momentum=st.floats(0.001, 1))
def test_a_momentum_is_the_share_of_the_window(mean, var, window, window_var, noise, momentum):
    moments = stored(window, window_var) | {"bn.noise": noise}

    moved = track(stored(mean, var), moments, momentum)

    assert_close(moved["bn.running_mean"], (1 - momentum) * mean + momentum * window, atol=1e-4, rtol=1e-5)
    assert_close(moved["bn.running_var"], (1 - momentum) * var + momentum * window_var, atol=1e-4, rtol=1e-5)


@FAST
@given(mean=means, var=variances, window=means, window_var=variances, noise=noises)
def test_without_a_momentum_mean_and_variance_follow_by_the_gain(mean, var, window, window_var, noise):
    moments = stored(window, window_var) | {"bn.noise": noise}
    share = gain(mean, var, window, noise)

    moved = track(stored(mean, var), moments)

    assert_close(moved["bn.running_mean"], torch.lerp(mean, window, share))
    assert_close(moved["bn.running_var"], torch.lerp(var, window_var, share))
    assert (moved["bn.running_var"] >= 0).all()


@settings(deadline=None, max_examples=20)
@given(
    rows=st.integers(2, 8), side=st.integers(1, 5), momentum=st.sampled_from([0.1, 0.5, 1.0]), seed=st.integers(0, 99)
)
def test_tracking_is_batch_norms_running_update(rows, side, momentum, seed):
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(3, momentum=momentum)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.3, 3)
    network = nn.Sequential(norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    backbone, x = TorchBackbone(network, (3, side, side)), torch.rand(rows, 3, side, side)

    moved = track(backbone.norm_stats(), backbone.forward(x, statistics="batch").moments, momentum)
    norm.train()(x)

    for name, tensor in moved.items():
        assert_close(tensor, network.get_buffer(name), atol=1e-6, rtol=1e-5)


def test_each_layer_has_a_gain_of_its_own():
    before = {f"{layer}.{kind}": torch.ones(2) for layer in "ab" for kind in ("running_mean", "running_var")}
    moments = {"a.running_mean": torch.ones(2), "b.running_mean": torch.full((2,), 50.0)}
    moments |= {f"{layer}.{kind}": torch.full((2,), 2.0) for layer in "ab" for kind in ("running_var", "noise")}

    moved = track(before, moments)

    assert moved["a.running_var"].tolist() == pytest.approx([1 + MIN_GAIN] * 2)
    assert moved["b.running_var"].tolist() == pytest.approx([2, 2], abs=0.01)


def test_a_layer_that_the_forward_does_not_reach_keeps_its_statistics():
    before = {f"{layer}.{kind}": torch.ones(2) for layer in "ab" for kind in ("running_mean", "running_var")}
    moments = {"b.running_mean": torch.zeros(2), "b.running_var": torch.zeros(2), "b.noise": torch.zeros(2)}

    moved = track(before, moments)

    assert list(moved) == list(before)
    assert moved["a.running_mean"] is before["a.running_mean"]
    assert not torch.equal(moved["b.running_mean"], before["b.running_mean"])


def test_tracking_changes_nothing_that_it_is_given():
    before, moments = stored(torch.zeros(2), torch.ones(2)), stored(torch.ones(2), torch.ones(2))

    track(before, moments | {"bn.noise": torch.zeros(2)})

    assert torch.equal(before["bn.running_mean"], torch.zeros(2))
    assert torch.equal(moments["bn.running_mean"], torch.ones(2))


def test_nothing_is_tracked_without_batch_norm():
    assert track({}, {}) == {}


# Answering
@pytest.mark.parametrize("stats", ["ema", "batch"])
def test_answers_use_the_scales_shifts_and_statistics_of_the_state(stats, backbone, batch):
    network = reference_network()
    changed = {name: tensor * 1.1 + 0.1 for name, tensor in (backbone.norm_affine() | backbone.norm_stats()).items()}
    network.load_state_dict(changed, strict=False)
    state = {f"{'stats' if 'running' in name else 'theta'}/{name}": tensor for name, tensor in changed.items()}

    logits = predict(backbone, state, batch, stats).logits

    # in training mode torch picks other kernels
    assert_close(logits, network.train(stats == "batch")(batch), atol=1e-4, rtol=1e-4)


def test_initial_statistics_are_copies_of_the_sources(backbone):
    state = init_stats(backbone)

    assert state.keys() == {f"stats/{name}" for name in backbone.norm_stats()}
    for name, tensor in backbone.norm_stats().items():
        assert torch.equal(state[f"stats/{name}"], tensor)
        assert state[f"stats/{name}"].data_ptr() != tensor.data_ptr()


def test_batch_statistics_of_one_image_are_refused(backbone, batch):
    with pytest.raises(ValueError, match="batch statistics need at least 2 images, got 1; send more at once, or use"):
        check_rows(backbone, batch[:1])
    with pytest.raises(ValueError, match="batch statistics need at least 2 images"):
        predict(backbone, {}, batch[:1], "batch")


def test_one_image_is_enough_for_moving_statistics_and_without_batch_norm(backbone, layer_norm_backbone, batch):
    check_rows(backbone, batch[:2])
    check_rows(layer_norm_backbone, batch[:1])

    assert predict(backbone, init_stats(backbone), batch[:1], "ema").logits.shape == (1, 10)
    assert predict(layer_norm_backbone, {}, batch[:1], "batch").logits.shape == (1, 10)


@pytest.mark.parametrize("stats", ["", "EMA", "source"])
def test_unknown_statistics_are_refused(stats):
    with pytest.raises(ValueError, match=f"stats must be 'batch' or 'ema', got '{stats}'"):
        create("bn", stats=stats)


@pytest.mark.parametrize("momentum", [0, -0.1, 1.1, float("nan")])
def test_a_momentum_outside_its_range_is_refused(momentum):
    with pytest.raises(ValueError, match=rf"stats_momentum must be in \(0, 1\], got {momentum}"):
        create("bn", stats_momentum=momentum)


@pytest.mark.parametrize("momentum", [None, 1, 0.1])
def test_good_settings_are_accepted(momentum):
    create("bn", stats_momentum=momentum)
    create("bn", stats="batch", stats_momentum=momentum)
