"""Which images come when."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tta_server.evaluate.small import OnlyLabels
from tta_server.evaluate.corruptions import CORRUPTIONS
from tta_server.evaluate.datasets import CLEAN
from tta_server.evaluate.evaluate_command import _PROTOCOLS
from tta_server.evaluate.protocols import PROTOCOLS, STEPS, Course, dirichlet_order, plan, requests

DATA = OnlyLabels()


def shown(phases) -> Counter:
    """Return how often each image of each condition is shown."""
    return Counter(
        (*phase.domains[which].condition, int(row))
        for phase in phases
        for which, row in zip(phase.which, phase.rows, strict=True)
    )


def runs(labels: np.ndarray) -> float:
    """Return the share of images with the label of the one before."""
    return float((labels[1:] == labels[:-1]).mean())


def same(one, other) -> bool:
    return len(one) == len(other) and all(
        a.name == b.name and np.array_equal(a.rows, b.rows) and np.array_equal(a.which, b.which)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_image_of_a_domain_is_shown_once_and_each_clean_one_twice(protocol):
    phases = plan(protocol, DATA, Course(images=40, severity=3))

    times = shown(phases)
    assert sum(len(phase) for phase in phases) == 40 * (len(CORRUPTIONS) + 2)
    assert {count for (name, *_), count in times.items() if name != "clean"} == {1}
    assert {count for (name, *_), count in times.items() if name == "clean"} == {2}
    assert (phases[0].name, phases[-1].name) == ("clean", "clean again")
    assert sorted(phases[0].rows) == sorted(phases[-1].rows)
    for name in CORRUPTIONS:
        assert sorted(row for found, _, row in times if found == name) == list(range(40))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_equal_seeds_give_equal_plans_and_others_do_not(protocol):
    first, second, other = (plan(protocol, DATA, Course(images=20, seed=seed)) for seed in (7, 7, 8))

    assert same(first, second)
    assert not same(first, other)


@pytest.mark.parametrize("protocol", ["continual", "reset", "single", "correlated"])
def test_the_corruptions_come_one_after_another_at_one_severity(protocol):
    phases = plan(protocol, DATA, Course(images=10, severity=4))[1:-1]

    assert [phase.domains[0].condition for phase in phases] == [(name, 4) for name in CORRUPTIONS]


def test_only_reset_resets_and_before_each_corruption():
    for protocol in PROTOCOLS:
        resets = [phase.reset for phase in plan(protocol, DATA, Course(images=18))]
        # Not before the clean images at the end, or they would say nothing of what adapting cost.
        assert resets == ([False, *[True] * 15, False] if protocol == "reset" else [False] * len(resets))


def test_in_gradual_each_corruption_comes_and_goes():
    phases = plan("gradual", DATA, Course(images=27))[1:-1]

    for name, phase in zip(CORRUPTIONS, phases, strict=True):
        severities = [phase.domains[index].condition.severity for index in phase.which]
        assert severities == [step for step in STEPS for _ in range(3)]
        assert (
            {domain.condition.name for domain in phase.domains} == {domain.column for domain in phase.domains} == {name}
        )


def test_gradual_with_all_images_shows_all_in_every_step():
    phases = plan("gradual", DATA, Course(images=None))[1:-1]

    for phase in phases:
        assert [sorted(phase.rows[phase.which == step]) for step in range(9)] == [list(range(40))] * 9


def test_gradual_with_few_images_leaves_steps_out():
    phases = plan("gradual", DATA, Course(images=2))[1:-1]

    assert {len(phase) for phase in phases} == {2}


def test_mixed_is_a_permutation_of_continual_that_mixes():
    course = Course(images=40)
    mixed, continual = plan("mixed", DATA, course), plan("continual", DATA, course)

    assert shown(mixed) == shown(continual)
    assert len(mixed) == 3
    firsts = mixed[1].which[:60]
    assert len(set(firsts.tolist())) >= 12  # of 15; 60 random draws miss more than 3 with a chance below 1e-3


def test_labels_of_correlated_are_correlated_and_others_are_not():
    data = OnlyLabels(1000, classes=20)
    course = Course(images=1000)

    def of(protocol, delta=0.1):
        phases = plan(protocol, data, Course(images=1000, delta=delta))
        return [runs(data.labels(None)[phase.rows]) for phase in phases]

    # By chance 1 of 20 has the label of the one before.
    assert max(of("continual")) < 0.1
    assert min(of("correlated")) > 0.8
    assert np.mean(of("correlated", delta=0.1)) > np.mean(of("correlated", delta=100)) + 0.05
    assert shown(plan("correlated", data, course)) == shown(plan("continual", data, course))


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=60),
    st.sampled_from([1e-3, 0.1, 1.0, 1e3]),
    st.integers(0, 2**32),
)
def test_a_dirichlet_order_is_a_permutation(labels, delta, seed):
    order = dirichlet_order(np.array(labels), delta, 8, np.random.default_rng(seed))

    assert sorted(order) == list(range(len(labels)))


def test_a_small_delta_leaves_classes_almost_whole():
    labels = np.random.default_rng(0).integers(0, 10, 1000)

    order = dirichlet_order(labels, 1e-3, 1, np.random.default_rng(0))

    # Ten classes in ten slots, each in one or two pieces.
    assert (np.diff(labels[order]) != 0).sum() <= 20


def test_clean_replays_the_same_without_corruption():
    for protocol in PROTOCOLS:
        clean = plan(protocol, DATA, Course(images=18, clean=True))
        usual = plan(protocol, DATA, Course(images=18))
        assert {domain.condition for phase in clean for domain in phase.domains} == {CLEAN}
        assert [sorted(phase.rows) for phase in clean] == [sorted(phase.rows) for phase in usual]
        columns = {domain.column for phase in clean[1:-1] for domain in phase.domains}
        assert columns == {f"part {number}" for number in range(1, 16)}


def test_data_without_clean_images_have_no_clean_phases():
    data = OnlyLabels(has_clean=False, corruptions=("fog", "snow"))

    assert [phase.name for phase in plan("continual", data, Course(images=10))] == ["fog", "snow"]
    with pytest.raises(ValueError, match="no clean images"):
        plan("continual", data, Course(images=10, clean=True))


def test_what_cannot_be_planned_is_refused():
    with pytest.raises(ValueError, match="images is 41, and the data have 40 of 'gaussian_noise'"):
        plan("continual", DATA, Course(images=41))
    with pytest.raises(ValueError, match="unknown protocol 'steady'; use one of continual"):
        plan("steady", DATA, Course())
    for wrong in ({"images": 1}, {"delta": 0.0}, {"seed": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Course(**wrong)


@given(st.integers(1, 300), st.integers(1, 70))
def test_requests_cover_every_image_once_and_never_leave_one_alone(rows, size):
    parts = requests(rows, size)

    assert [place for part in parts for place in range(rows)[part]] == list(range(rows))
    lengths = [part.stop - part.start for part in parts]
    assert max(lengths) <= size + 1
    assert min(lengths) > 1 or size == 1 or rows == 1


def test_the_command_knows_every_protocol():
    assert tuple(_PROTOCOLS.split(", ")) == PROTOCOLS


def test_a_window_of_correlated_holds_few_of_many_classes():
    data = OnlyLabels(256, classes=36)

    phases = plan("correlated", data, Course(images=256, window=64))

    held = [len(set(part)) for phase in phases for part in np.split(data.labels(None)[phase.rows], 4)]
    # By chance a window of 64 holds 30 of 36 classes.
    assert np.mean(held) < 16
