import pytest
import torch

from tests.tta_server.guard.streams import all_images, clean, foggy, model
from tta_server.guard.estimate import Estimator


@pytest.fixture(scope="module")
def estimator():
    return Estimator(model().reference)


def estimate(estimator, x):
    return estimator.of(model().backbone.forward(x))


def test_the_frozen_model_is_lost_on_few_images_at_home(estimator):
    found = estimate(estimator, clean(0, 512))

    assert found.lost < 0.1
    assert found.accuracy > 0.85


def test_a_class_that_lies_far_out_is_not_lost(estimator):
    images, labels = all_images()

    lost = torch.tensor([estimate(estimator, images[labels == label]).lost for label in range(36)])

    assert lost.max() < 0.3


def test_the_estimated_accuracy_falls_with_the_true_one(estimator):
    assert estimate(estimator, foggy(clean(0, 128))).accuracy < estimate(estimator, clean(0, 128)).accuracy - 0.2
