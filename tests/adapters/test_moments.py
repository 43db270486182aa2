import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from tests.networks import reference_network
from tests.states import bits
from tta_server.adapters import create
from tta_server.adapters.moments import init_stats, track, track_stats
from tta_server.models import Output, TorchBackbone
from tta_server.models.pooled import pool

FAST = settings(deadline=None, max_examples=100)
SLOW = settings(deadline=None, max_examples=20)
CHANNELS, SIDE = 4, 5
LAYERS = {f"{layer}.{kind}": torch.ones(2) for layer in "ab" for kind in ("running_mean", "running_var")}


def vectors(low: float, high: float):
    values = st.floats(low, high, width=32)
    return st.lists(values, min_size=CHANNELS, max_size=CHANNELS).map(torch.tensor)


means, variances, shares = vectors(-100, 100), vectors(0, 100), st.floats(0, 1, width=32)


def stored(mean: Tensor, var: Tensor) -> dict[str, Tensor]:
    return {"bn.running_mean": mean, "bn.running_var": var}


def counted(count: float, stats: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"count/images": torch.tensor(count)} | {f"stats/{name}": tensor for name, tensor in stats.items()}


def output(images: int, moments: dict[str, Tensor]) -> Output:
    return Output(torch.zeros(images, 2), torch.zeros(images, 2), moments)


def single_layer(seed: int) -> TorchBackbone:
    """Return a network that begins with its only BatchNorm, in float64."""
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(3)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.3, 3)
    network = nn.Sequential(norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    return TorchBackbone(network.double(), (3, SIDE, SIDE))


# Accumulating
@SLOW
@given(sizes=st.lists(st.integers(1, 16), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_statistics_are_the_moments_of_all_images_and_of_a_source_worth_four(sizes, seed):
    assume(all(n / (4 + sum(sizes[: k + 1])) >= 0.1 for k, n in enumerate(sizes)))
    backbone, adapter = single_layer(seed), create("bn")
    windows = [torch.rand(n, 3, SIDE, SIDE).double() * torch.rand(3, 1, 1) + torch.rand(3, 1, 1) for n in sizes]
    state = adapter.init(backbone)

    for window in windows:
        state = adapter.adapt(backbone, state, window).state

    total, source_mean, source_var = 4 + sum(sizes), *backbone.norm_stats().values()
    pixels = torch.cat(windows).transpose(0, 1).flatten(1)
    mean = (4 * source_mean + pixels.sum(1) / SIDE**2) / total
    squares = 4 * (source_var + (source_mean - mean) ** 2) + ((pixels - mean[:, None]) ** 2).sum(1) / SIDE**2
    for window in windows:  # as in BatchNorm, the variance within a window is the unbiased one
        biased = window.transpose(0, 1).flatten(1).var(1, unbiased=False)
        squares += len(window) * biased / (len(window) * SIDE**2 - 1)
    # the share is computed in float32
    assert_close(state["stats/0.running_mean"], mean, atol=1e-6, rtol=1e-6)
    assert_close(state["stats/0.running_var"], squares / total, atol=1e-6, rtol=1e-6)
    assert state["count/images"].item() == total


@FAST
@given(images=st.integers(1, 1024), count=st.integers(4, 2**20), mean=means, window=means)
def test_a_window_counts_by_its_images_and_at_least_a_tenth(images, count, mean, window):
    state = counted(count, stored(mean, torch.ones(CHANNELS)))

    moved = track_stats(state, output(images, stored(window, torch.ones(CHANNELS))))

    share = max(images / (images + count), 0.1)
    assert_close(moved["stats/bn.running_mean"], mean + share * (window - mean), atol=1e-4, rtol=1e-5)
    assert moved["count/images"].item() == min(images + count, 2**20)
    assert (moved["stats/bn.running_var"] >= 1 - 1e-5).all()


@FAST
@given(images=st.integers(1, 1024), count=st.floats(-2048, 2**30, width=32), mean=means, window=means)
def test_whatever_count_a_file_brings_the_mean_stays_between_stored_and_window(images, count, mean, window):
    state = counted(count, stored(mean, torch.ones(CHANNELS)))

    moved = track_stats(state, output(images, stored(window, torch.ones(CHANNELS))))["stats/bn.running_mean"]

    assert (moved >= torch.minimum(mean, window) - 1e-4).all()
    assert (moved <= torch.maximum(mean, window) + 1e-4).all()


@FAST
@given(mean=means, var=variances, window=means, window_var=variances, share=shares)
def test_pooled_second_moments_are_the_mean_of_the_second_moments(mean, var, window, window_var, share):
    mean, var, window, window_var = (tensor.double() for tensor in (mean, var, window, window_var))

    pooled = pool(stored(mean, var), stored(window, window_var), torch.tensor(share))

    found = pooled["bn.running_var"] + pooled["bn.running_mean"] ** 2
    assert_close(found, (1 - share) * (var + mean**2) + share * (window_var + window**2), atol=1e-6, rtol=1e-6)


def test_slow_change_is_followed_however_much_was_seen():
    state = counted(2.0**20, stored(torch.zeros(CHANNELS), torch.ones(CHANNELS)))

    for _ in range(60):
        state = track_stats(state, output(16, stored(torch.ones(CHANNELS), torch.ones(CHANNELS))))

    assert_close(state["stats/bn.running_mean"], torch.ones(CHANNELS), atol=0.01, rtol=0)


# A momentum
@FAST
@given(mean=means, var=variances, window=means, window_var=variances, momentum=st.floats(0.001, 1))
def test_a_momentum_is_the_share_of_the_window_whatever_was_seen(mean, var, window, window_var, momentum):
    moved = track_stats(counted(60, stored(mean, var)), output(8, stored(window, window_var)), momentum)

    assert_close(moved["stats/bn.running_mean"], (1 - momentum) * mean + momentum * window, atol=1e-4, rtol=1e-5)
    assert_close(moved["stats/bn.running_var"], (1 - momentum) * var + momentum * window_var, atol=1e-4, rtol=1e-5)
    assert moved["count/images"].item() == 68


@SLOW
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


@pytest.mark.parametrize("move", [lambda *given: track(*given, 0.5), lambda *given: pool(*given, torch.tensor(0.5))])
def test_a_layer_that_the_forward_does_not_reach_keeps_its_statistics(move):
    before, moments = dict(LAYERS), {"b.running_mean": torch.zeros(2), "b.running_var": torch.zeros(2)}

    moved = move(before, moments)

    assert list(moved) == list(before)
    assert moved["a.running_mean"] is before["a.running_mean"]
    assert not torch.equal(moved["b.running_mean"], torch.ones(2))
    assert torch.equal(before["b.running_mean"], torch.ones(2))
    assert torch.equal(moments["b.running_mean"], torch.zeros(2))


def test_nothing_is_tracked_without_batch_norm(layer_norm_backbone):
    assert init_stats(layer_norm_backbone) == {}
    assert track_stats({}, output(2, {})) == {}


# Beginning
EMA = ["bn", "tent", "eata", "sar", "roid", "cotta", "vida"]


@pytest.mark.parametrize("name", EMA)
def test_a_fresh_stream_answers_nearer_to_its_first_images_own_statistics(name, backbone, batch):
    adapter, paler = create(name), batch * 0.3 + 0.6
    initial = adapter.init(backbone)

    begun = adapter.begin(backbone, initial, paler)

    own = backbone.forward(paler, statistics="batch").logits.softmax(1)
    apart = [
        (adapter.predict(backbone, state, paler).logits.softmax(1) - own).abs().mean() for state in (initial, begun)
    ]
    assert apart[1] < apart[0] / 2
    assert begun["count/images"].item() == 4 + len(batch)


@SLOW
@given(rows=st.integers(1, 16), seed=st.integers(0, 99), momentum=st.none() | st.sampled_from([0.1, 1.0]))
def test_where_moments_are_the_images_own_begin_moves_statistics_as_a_step_does(rows, seed, momentum):
    backbone, adapter = single_layer(seed), create("bn", stats_momentum=momentum)
    initial, x = adapter.init(backbone), torch.rand(rows, 3, SIDE, SIDE).double()

    begun, stepped = adapter.begin(backbone, initial, x), adapter.adapt(backbone, initial, x).state

    assert_close(begun, dict(stepped), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["cotta", "vida"])
def test_begin_sees_images_as_the_teacher_does(name, backbone, batch):
    adapter = create(name)
    initial = adapter.init(backbone)
    groups = {
        copy: {n: t + 0.1 if n.startswith(f"{copy}/") else t for n, t in initial.items()}
        for copy in ("theta", "teacher")
    }

    expected, student, teacher = (
        {n: t for n, t in adapter.begin(backbone, state, batch).items() if n.startswith("stats/")}
        for state in (initial, groups["theta"], groups["teacher"])
    )

    assert bits(student) == bits(expected)
    assert bits(teacher) != bits(expected)


@pytest.mark.parametrize("images", [1, 2])
def test_an_image_that_is_one_value_to_a_layer_moves_nothing(images):
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))
    backbone, adapter = TorchBackbone(network, (3, SIDE, SIDE)), create("tent")
    initial = adapter.init(backbone)

    begun = adapter.begin(backbone, initial, torch.rand(images, 3, SIDE, SIDE))

    assert (bits(begun) == bits(initial)) == (images == 1)


@pytest.mark.parametrize("name", ["tent", "source", "rotta", "lame"])
def test_without_accumulated_statistics_there_is_nothing_to_begin_with(name, backbone, layer_norm_backbone, batch):
    batch_mode = create(name, **({"stats": "batch"} if name == "tent" else {}))
    one, other = batch_mode.init(backbone), create(name).init(layer_norm_backbone)

    assert batch_mode.begin(backbone, one, batch) is one
    assert create(name).begin(layer_norm_backbone, other, batch) is other


# Answering
@pytest.mark.parametrize("stats", ["ema", "batch"])
def test_answers_use_the_scales_shifts_and_statistics_of_the_state(stats, backbone, batch):
    network = reference_network()
    changed = {name: tensor * 1.1 + 0.1 for name, tensor in (backbone.norm_affine() | backbone.norm_stats()).items()}
    network.load_state_dict(changed, strict=False)
    state = {f"{'stats' if 'running' in name else 'theta'}/{name}": tensor for name, tensor in changed.items()}

    logits = create("tent", stats=stats).predict(backbone, state, batch).logits

    # in training mode torch picks other kernels
    assert_close(logits, network.train(stats == "batch")(batch), atol=1e-4, rtol=1e-4)


def test_initial_statistics_are_copies_of_the_sources(backbone):
    state = init_stats(backbone)

    assert state.keys() == {f"stats/{name}" for name in backbone.norm_stats()} | {"count/images"}
    assert state["count/images"].item() == 4
    for name, tensor in backbone.norm_stats().items():
        assert torch.equal(state[f"stats/{name}"], tensor)
        assert state[f"stats/{name}"].data_ptr() != tensor.data_ptr()


def test_one_image_is_enough_for_moving_statistics_and_without_batch_norm(backbone, layer_norm_backbone, batch):
    moving, coupled = create("tent"), create("tent", stats="batch")

    assert moving.predict(backbone, moving.init(backbone), batch[:1]).logits.shape == (1, 10)
    assert coupled.predict(layer_norm_backbone, {}, batch[:1]).logits.shape == (1, 10)
    with pytest.raises(ValueError, match="batch statistics need at least 2 images, got 1; send more at once, or use"):
        coupled.predict(backbone, {}, batch[:1])


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
