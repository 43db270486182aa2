"""EATA's Fisher weights against the authors' code."""

import pytest
from torch.testing import assert_close

from tests.networks import golden, reference_network
from tta_server.adapters.eata_fisher import fisher
from tta_server.models import TorchBackbone


def test_fisher_weights_equal_the_authors():
    backbone = TorchBackbone(reference_network(), (3, 32, 32))
    expected = {n.removeprefix("fisher/"): t for n, t in golden("eata").items() if n.startswith("fisher/")}

    found = fisher(backbone, golden("base")["src/x"])

    assert set(found) == set(expected) == set(backbone.norm_affine())
    for name, tensor in expected.items():
        assert_close(found[name], tensor, atol=1e-6, rtol=1e-4)  # the same sums in another order


def test_fisher_weights_need_a_batch(backbone):
    with pytest.raises(ValueError, match="at least one batch"):
        fisher(backbone, [])
