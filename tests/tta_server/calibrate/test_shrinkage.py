import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tta_server.calibrate import shrinkage


def test_the_shrunk_covariance_is_that_of_the_paper():
    features = np.random.default_rng(0).normal(size=(12, 5)) @ np.random.default_rng(1).normal(size=(5, 5))
    centred = features - features.mean(0)
    sample = centred.T @ centred / 12
    scale = np.trace(sample) / 5
    spread = sum(np.linalg.norm(np.outer(row, row) - sample) ** 2 for row in centred) / 12**2
    share = min(spread / np.linalg.norm(sample - scale * np.eye(5)) ** 2, 1)

    found, shrinkage_ = shrinkage.ledoit_wolf(torch.from_numpy(features))

    assert 0 < share < 1
    assert shrinkage_ == pytest.approx(share)
    assert_close(found, torch.from_numpy((1 - share) * sample + share * scale * np.eye(5)))


def test_more_features_than_images_still_have_a_precision():
    features = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))

    _, precision = shrinkage.gaussian(features)

    assert precision.isfinite().all()
    assert (torch.linalg.eigvalsh(precision) > 0).all()


def test_features_that_do_not_vary_are_refused():
    with pytest.raises(ValueError, match="do not vary"):
        shrinkage.gaussian(torch.ones(20, 3))


def test_held_out_distances_are_those_of_fresh_images():
    generator = torch.Generator().manual_seed(0)
    fitted, fresh = (torch.randn(200, 60, generator=generator) * torch.arange(1, 61) for _ in range(2))
    mean, precision = shrinkage.gaussian(fitted)

    flattered = shrinkage.mahalanobis(fitted.double(), mean, precision).mean()
    honest = shrinkage.held_out_distances(fitted).mean()
    expected = shrinkage.mahalanobis(fresh.double(), mean, precision).mean()

    assert honest.item() == pytest.approx(expected.item(), rel=0.05)
    assert flattered < 0.95 * expected
