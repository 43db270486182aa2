"""The short form of `make bench-guard`: streams that ruin an adapter alone must not ruin one that is guarded."""

import numpy as np
import pytest

from load_tests.adverse import UNCOUNTED
from load_tests.guard import MARGIN, TOGETHER, harm
from tta_server import adapters
from tta_server.evaluate.run import Bench
from tta_server.models import catalog, glyphs
from tta_server.settings import GuardSettings

WINDOW, IMAGES, CLASSES = 16, 320, 12  # few classes, so that one fills more than a window
DEMO_RATE = 5e-3


@pytest.fixture(scope="module")
def bench():
    model = catalog.load("glyphs")
    return Bench(model.backbone, model.reference, None, WINDOW, guard=GuardSettings(), domains=16)


def pictures(order="random", classes=CLASSES):
    images, labels = glyphs.images("test")
    rows = np.random.default_rng(0).permutation(np.flatnonzero(labels < classes))[:IMAGES]
    rows = rows[np.argsort(labels[rows], kind="stable")] if order == "by class" else rows
    return images[rows], labels[rows]


def foggy(images):
    """Return pale images with a little noise: the frozen model misreads a third of them."""
    noise = np.random.default_rng(0).normal(0, 5, images.shape)
    return (0.4 * images + 20 + noise).clip(0, 255).astype(np.uint8)


def drifting(order="random"):
    images, labels = pictures(order)
    return foggy(images), labels


def blurred():
    """Return images that are blurred so little that the frozen model hardly minds."""
    images, labels = pictures(classes=36)
    shifted = [np.roll(images, (down, right), (2, 3)) for down in (0, 1) for right in (0, 1, 2)]
    return np.mean(shifted, 0).astype(np.uint8), labels


def outliers(images, labels):
    rng = np.random.default_rng(1)
    hit = rng.random(len(labels)) < 0.2
    images = images.copy()
    images[hit] = rng.integers(0, 256, images[hit].shape, dtype=np.uint8)
    return images, np.where(hit, UNCOUNTED, labels)


def flicker(images, labels):
    noise = np.random.default_rng(2).integers(-2, 3, images.shape)
    still = np.repeat(images[:4], len(images) // 4, 0)
    return (still + noise).clip(0, 255).astype(np.uint8), np.repeat(labels[:4], len(labels) // 4)


def misread(bench, adapter, images, labels, guard=True):
    session = (bench if guard else Bench(bench.backbone, bench.reference, None, WINDOW)).session(adapter, inline=False)
    parts = [slice(start, start + WINDOW) for start in range(0, len(labels), WINDOW)]
    return np.concatenate([session.answer(images[part]) != labels[part] for part in parts]), session


def errors(bench, stream, lr):
    """Return what the frozen model, the adapter alone and the guarded adapter misread."""
    tent = adapters.create("tent", lr=lr)
    frozen, _ = misread(bench, adapters.create("source"), *stream)
    alone, _ = misread(bench, tent, *stream, guard=False)
    guarded, session = misread(bench, tent, *stream)
    return frozen, alone, guarded, session


@pytest.mark.parametrize(
    ("stream", "lr"),
    [
        (pictures("by class"), 30 * DEMO_RATE),
        (drifting("by class"), 30 * DEMO_RATE),
        (outliers(*blurred()), DEMO_RATE),
        (flicker(*pictures()), 2.5e-4),
    ],
    ids=["fast, class by class, clean", "fast, class by class, drifting", "outliers", "still"],
)
def test_a_stream_that_ruins_an_adapter_does_not_ruin_a_guarded_one(bench, stream, lr):
    counted = stream[1] != UNCOUNTED

    frozen, alone, guarded, _ = errors(bench, stream, lr)

    assert alone[counted].mean() > frozen[counted].mean() + 0.02  # else the stream proves nothing
    worst, row = harm(guarded, frozen, counted)
    assert worst <= MARGIN
    assert row <= TOGETHER


def turns(first, second, run):
    """Return images of two kinds of the same pictures, `run` windows of each in turn."""
    (images, labels), (others, _) = first, second
    changed = (np.arange(len(labels)) // (WINDOW * run)) % 2 == 1
    return np.where(changed[:, None, None, None], others, images), labels


@pytest.mark.parametrize(
    ("stream", "lr"),
    [
        (turns(pictures(), drifting(), 1), DEMO_RATE),
        (turns(drifting("by class"), pictures("by class"), 2), 30 * DEMO_RATE),
    ],
    ids=["clean and fog, window by window", "fast, class by class, fog and clean"],
)
def test_inputs_that_take_turns_are_answered_no_worse_than_by_the_frozen_model(bench, stream, lr):
    frozen, _ = misread(bench, adapters.create("source"), *stream)

    guarded, session = misread(bench, adapters.create("tent", lr=lr), *stream)

    worst, row = harm(guarded, frozen, np.ones_like(guarded))
    assert worst <= MARGIN
    assert row <= TOGETHER
    assert any(session.accepted)  # else nothing was at stake


def test_the_guard_keeps_what_adapting_gains(bench):
    frozen, alone, guarded, session = errors(bench, drifting(), DEMO_RATE)

    assert alone.mean() < 0.7 * frozen.mean()  # else there is nothing to keep
    assert guarded.mean() <= alone.mean() + 0.02
    assert session.restores == 0


def test_clean_images_are_answered_as_by_the_frozen_model(bench):
    frozen, _, guarded, session = errors(bench, pictures(), DEMO_RATE)

    assert (guarded == frozen).mean() > 0.99
    assert session.restores == 0


def test_images_that_are_not_numbers_are_never_learnt_from(bench):
    images, labels = drifting()
    broken = images.astype(np.float32) / 255
    broken[::WINDOW, 0, 0, 0] = np.nan

    _, session = misread(bench, adapters.create("tent"), broken, labels)

    assert session.stream.version == 0
    assert not any(session.accepted)


def test_harm_is_measured_window_by_window():
    frozen = np.zeros(64 * 60, bool)
    wrong = frozen.copy()
    wrong[64 * 10 : 64 * 20] = True

    worst, row = harm(wrong, frozen, np.ones_like(wrong))

    assert worst == pytest.approx(10 / 20)
    assert row == 10
