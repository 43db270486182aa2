import dataclasses
import math

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor
from torch.testing import assert_close

from tests.networks import golden, reference_network
from tta_server.adapters.laws.law import Operators
from tta_server.drift.scores import (
    LEVELS,
    ImageScores,
    SourceStatistics,
    atc_threshold,
    class_shares,
    divergence,
    energy,
    image_scores,
    layer_shifts,
    mahalanobis,
    norm_scores,
    window_scores,
)
from tta_server.models import Reference, TorchBackbone

CLASSES, WIDTH = 7, 5


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def precision() -> Tensor:
    root = drawn(WIDTH, WIDTH, seed=9)
    return root @ root.T + torch.eye(WIDTH)


@pytest.fixture
def source() -> SourceStatistics:
    return SourceStatistics(
        histogram=torch.full((CLASSES,), 1 / CLASSES),
        feature_mean=drawn(WIDTH, seed=8),
        feature_precision=precision(),
        distance_mean=torch.tensor(2.0),
        distance_ceiling=torch.tensor(4.0),
        confidence_mean=torch.tensor(0.9),
        confidence_floor=torch.tensor(0.3),
        energy_mean=torch.tensor(-1.0),
        energy_std=torch.tensor(0.5),
        class_offsets=drawn(CLASSES, 3, seed=7),
        class_doubts=torch.zeros(CLASSES, 3),
        atc_threshold=torch.tensor(0.4),
        accuracy=torch.tensor(0.8),
    )


def rows(source: SourceStatistics, count: int = 40, seed: int = 0) -> ImageScores:
    return image_scores(2 * drawn(count, CLASSES, seed=seed), drawn(count, WIDTH, seed=seed + 1), source)


histograms = arrays.arrays(np.int64, CLASSES, elements=st.integers(0, 1000)).filter(np.any)


# Of one image
def test_what_is_kept_of_an_image_equals_scipy(source):
    logits, features = 3 * drawn(20, CLASSES), drawn(20, WIDTH, seed=1)
    shares = scipy.special.softmax(logits.double().numpy(), axis=1)
    mean, inverse = source.feature_mean.double().numpy(), source.feature_precision.double().numpy()

    found = image_scores(logits, features, source)

    # float32 sums against float64
    close = {"atol": 1e-5, "rtol": 1e-5}
    assert_close(found.entropy_ratio.double().numpy(), scipy.stats.entropy(shares, base=CLASSES, axis=1), **close)
    assert_close(found.confidence.double().numpy(), shares.max(1), **close)
    assert_close(found.energy.double().numpy(), -scipy.special.logsumexp(logits.double().numpy(), axis=1), **close)
    assert found.predicted.tolist() == shares.argmax(1).tolist()
    distances = [scipy.spatial.distance.mahalanobis(row, mean, inverse) for row in features.double().numpy()]
    assert_close(found.distance.double().numpy(), np.array(distances), **close)


@given(shift=st.floats(-20, 20))
def test_only_the_energy_sees_logits_that_move_together(shift):
    logits = drawn(8, CLASSES).double()

    assert_close(energy(logits + shift), energy(logits) - shift)


def test_features_at_the_mean_have_no_distance(source):
    found = mahalanobis(source.feature_mean[None], source.feature_mean, source.feature_precision)

    assert found.tolist() == [0.0]


# Of a window
def test_the_scores_of_a_window_equal_plain_numpy(source):
    window = rows(source)
    confidence, distance = window.confidence.numpy(), window.distance.numpy()
    counts = np.bincount(window.predicted.numpy(), minlength=CLASSES) / 40
    even, explained = np.full(CLASSES, 1 / CLASSES), counts @ source.class_offsets.numpy()

    scores = window_scores(window, source)

    expected = {
        "entropy_ratio": window.entropy_ratio.numpy().mean() - explained[0],
        "confidence": confidence.mean(),
        "low_confidence_share": (confidence < 0.3).mean(),
        "energy_shift_sigmas": (window.energy.numpy().mean() + 1) / 0.5 - explained[1],
        "prediction_divergence_ratio": scipy.spatial.distance.jensenshannon(counts, even, base=2) ** 2,
        "feature_distance_ratio": distance.mean() / 2 - explained[2],
        "far_feature_share": (distance > 4).mean(),
        "atc_accuracy": (confidence >= 0.4).mean(),
        "estimated_accuracy": ((confidence >= 0.4) & (distance <= 6)).mean(),
        "doc_accuracy": 0.8 - (0.9 - confidence.mean()),
    }
    assert {name: pytest.approx(value, abs=1e-5) for name, value in expected.items()} == {
        name: score.item() for name, score in scores.items()
    }
    assert 0 < expected["low_confidence_share"] < expected["atc_accuracy"] < 1  # the fixture decides something


def test_windows_that_are_stacked_score_as_each_alone(source):
    windows = [rows(source, seed=seed) for seed in range(3)]
    stacked = ImageScores(*(torch.stack(values) for values in zip(*windows, strict=True)))

    together = window_scores(stacked, source)

    for i, window in enumerate(windows):
        for name, alone in window_scores(window, source).items():
            assert_close(together[name][i], alone)


@settings(max_examples=30)
@given(order=st.permutations(range(40)))
def test_the_order_of_a_window_does_not_matter(order):
    confidence = torch.rand(40, generator=torch.Generator().manual_seed(0)).double()
    window = ImageScores(confidence, confidence, -confidence, (confidence * CLASSES).long(), confidence)
    half, offsets = torch.tensor(0.5).double(), drawn(CLASSES, 3)
    numbers = [*[half] * 6, offsets, offsets, half, half]
    source = SourceStatistics(torch.full((CLASSES,), 1 / CLASSES), torch.zeros(1), torch.eye(1), *numbers)

    shuffled = ImageScores(*(values[order] for values in window))

    assert_close(window_scores(shuffled, source), window_scores(window, source))


@pytest.mark.parametrize("name", ["confidence", "doc_accuracy", "atc_accuracy"])
def test_answers_that_are_all_sure_look_accurate(source, name):
    window = rows(source)._replace(confidence=torch.ones(40))

    assert window_scores(window, source)[name] >= 0.9


def test_the_scores_do_not_wait_for_the_device(source):
    window = rows(source)

    with Operators() as ran:
        window_scores(window, source)

    assert ran.names
    assert not ran.waits()


# Divergence of predictions
@given(one=histograms, other=histograms)
def test_divergence_is_scipys_symmetric_and_within_0_and_1(one, other):
    one, other = one / one.sum(), other / other.sum()

    found = divergence(torch.from_numpy(one), torch.from_numpy(other))

    middle = (one + other) / 2
    nats = scipy.special.rel_entr(one, middle).sum() + scipy.special.rel_entr(other, middle).sum()
    assert found.item() == pytest.approx(nats / 2 / math.log(2), abs=1e-12)
    assert_close(found, divergence(torch.from_numpy(other), torch.from_numpy(one)))
    assert 0 <= found <= 1


def test_predictions_that_share_no_class_diverge_by_1():
    one, other = class_shares(torch.tensor([[0, 0, 1], [2, 3, 3]]), 4)

    assert_close(divergence(one, other), torch.tensor(1.0))


# Normalisation layers
def moments(mean: Tensor, var: Tensor) -> dict[str, Tensor]:
    return {"a.running_mean": mean, "a.running_var": var}


def test_w2_of_a_channel_is_the_distance_between_quantiles():
    levels = (np.arange(200_000) + 0.5) / 200_000
    one, other = scipy.stats.norm(1.0, 2.0), scipy.stats.norm(0.2, 0.7)
    expected = np.sqrt(np.mean((one.ppf(levels) - other.ppf(levels)) ** 2)) / 0.7

    w2, _ = layer_shifts(
        moments(torch.tensor([1.0]), torch.tensor([4.0])), moments(torch.tensor([0.2]), torch.tensor([0.49]))
    )["a"]

    assert w2.item() == pytest.approx(expected, rel=1e-3)  # the sum leaves out what is beyond the outer quantiles


def test_kl_is_the_sum_of_torchs_both_directions():
    one = torch.distributions.Normal(drawn(6), drawn(6, seed=1).abs() + 0.5)
    other = torch.distributions.Normal(drawn(6, seed=2), drawn(6, seed=3).abs() + 0.5)
    both = [torch.distributions.kl_divergence(*pair) for pair in ((one, other), (other, one))]

    _, kl = layer_shifts(moments(one.mean, one.variance), moments(other.mean, other.variance))["a"]

    # what is added to the variances
    assert_close(kl, (both[0] + both[1]).mean(), atol=1e-3, rtol=1e-3)


@given(
    mean=arrays.arrays(np.float64, 4, elements=st.floats(-1e3, 1e3)),
    var=arrays.arrays(np.float64, 4, elements=st.floats(0, 1e3)),
)
def test_a_layer_shifts_by_nothing_only_where_nothing_differs(mean, var):
    stats = moments(torch.zeros(4).double(), torch.ones(4).double())
    given_ = moments(torch.from_numpy(mean), torch.from_numpy(var))

    w2, kl = layer_shifts(given_, stats)["a"]
    same = layer_shifts(given_, given_)["a"]

    assert w2.isfinite()
    assert kl.isfinite()
    assert (w2 > 1e-6) == (np.abs(mean).max() > 1e-5 or np.abs(var - 1).max() > 1e-5) or w2 < 1e-4
    assert [value.item() for value in same] == [0, pytest.approx(0, abs=1e-9)]


def test_a_larger_shift_of_the_mean_scores_higher():
    stats = moments(torch.zeros(4), torch.ones(4))

    scores = [norm_scores(moments(torch.full((4,), shift), torch.ones(4)), stats) for shift in (0.1, 0.5, 2.0)]

    for name in scores[0]:
        assert scores[0][name] < scores[1][name] < scores[2][name]
    assert scores[2]["norm_w2_mean"].item() == pytest.approx(2, rel=1e-4)


def test_a_channel_that_died_does_not_make_w2_blow_up():
    stats = moments(torch.zeros(2), torch.tensor([0.0, 1.0]))

    w2, kl = layer_shifts(moments(torch.tensor([0.1, 0.0]), torch.tensor([0.1, 1.0])), stats)["a"]

    assert w2 < 0.5
    assert kl.isfinite()


def test_mean_and_maximum_go_over_the_layers():
    backbone = TorchBackbone(reference_network(), (3, 32, 32))
    found = backbone.forward(golden("base")["x"][0], statistics="batch").moments
    stats = backbone.norm_stats()

    shifts = layer_shifts(found, stats)
    scores = norm_scores(found, stats)

    assert set(shifts) == {name.rpartition(".")[0] for name in stats}
    for kind, name in enumerate(("w2", "kl")):
        values = [shift[kind].item() for shift in shifts.values()]
        assert scores[f"norm_{name}_mean"].item() == pytest.approx(np.mean(values), rel=1e-5)
        assert scores[f"norm_{name}_max"].item() == pytest.approx(max(values), rel=1e-5)


def test_a_network_without_batch_norm_has_no_such_scores():
    assert norm_scores({}, {}) == {}


# Estimates of the accuracy
@given(
    confidence=arrays.arrays(np.float64, 30, elements=st.floats(0, 1), unique=True),
    correct=arrays.arrays(np.bool_, 30),
)
def test_atc_finds_the_accuracy_of_the_data_it_was_fitted_on(confidence, correct):
    values, right = torch.from_numpy(confidence), torch.from_numpy(correct)

    threshold = atc_threshold(values, right)

    assert (values >= threshold).double().mean() == pytest.approx(right.double().mean().item())


@given(confidence=st.floats(0, 1), accuracy=st.floats(0, 1))
def test_estimates_are_shares(confidence, accuracy):
    numbers = [torch.tensor(0.5)] * 7
    numbers = [*numbers[:6], torch.zeros(2, 3), torch.zeros(2, 3), numbers[6], torch.tensor(accuracy)]
    source = SourceStatistics(torch.full((2,), 0.5), torch.zeros(1), torch.eye(1), *numbers)
    column = torch.full((4,), confidence)

    scores = window_scores(ImageScores(column, column, column, torch.zeros(4, dtype=torch.int64), column), source)

    assert 0 <= scores["doc_accuracy"] <= 1
    assert 0 <= scores["atc_accuracy"] <= 1


# The numbers of a bundle
def test_the_source_takes_its_quantiles_at_5_and_99_percent():
    levels = torch.tensor(LEVELS)
    tensors = {
        "histogram/classes": torch.ones(1),
        "features/mean": torch.zeros(1),
        "features/precision": torch.eye(1),
        "features/distance_mean": torch.tensor(1.0),
        "features/distance_quantiles": levels,
        "confidence/mean": torch.tensor(0.5),
        "confidence/quantiles": levels,
        "energy/mean": torch.tensor(0.0),
        "energy/std": torch.tensor(1.0),
        "atc/threshold": torch.tensor(0.5),
    }

    source = SourceStatistics.of(Reference("", tensors, {"accuracy": 0.75}))

    assert source.confidence_floor.item() == pytest.approx(0.05)
    assert source.distance_ceiling.item() == pytest.approx(0.99)
    assert source.accuracy.item() == 0.75
    assert source.atc_threshold.item() == 0.5
    plain = SourceStatistics.of(Reference("", {name: t for name, t in tensors.items() if name != "atc/threshold"}))
    assert (plain.atc_threshold, plain.accuracy) == (None, None)
    with pytest.raises(ValueError, match="no part 'energy'"):
        SourceStatistics.of(Reference("", {n: t for n, t in tensors.items() if not n.startswith("energy/")}))


def test_without_labels_no_accuracy_is_estimated_and_the_other_scores_stay(source):
    column = torch.full((4,), 0.5)
    window = ImageScores(column, column, column, torch.zeros(4, dtype=torch.int64), column)

    plain = window_scores(window, dataclasses.replace(source, atc_threshold=None, accuracy=None))

    every = window_scores(window, source)
    assert every.keys() - plain.keys() == {"atc_accuracy", "doc_accuracy", "estimated_accuracy"}
    assert all(torch.equal(every[name], value) for name, value in plain.items())


def test_the_largest_entropy_is_1():
    found = image_scores(
        torch.zeros(2, CLASSES),
        torch.zeros(2, 1),
        SourceStatistics(*[torch.ones(1)] * 2, torch.eye(1), *[torch.ones(())] * 10),
    )

    assert found.entropy_ratio.tolist() == pytest.approx([1, 1])
    assert found.energy.tolist() == pytest.approx([-math.log(CLASSES)] * 2)
