"""LAME against the authors' code, and what only it promises."""

import pytest
import torch
from torch.nn.functional import normalize

from tests.networks import golden
from tta_server import adapters


def test_it_matches_the_authors_outputs(backbone, batches):
    expected = golden("lame_rbf")
    adapter = adapters.create("lame")

    for i, batch in enumerate(batches):
        output = adapter.predict(backbone, {}, batch)
        kernel = adapter._affinity(normalize(output.features))
        torch.testing.assert_close(kernel, expected["kernels"][i], atol=1e-5, rtol=0)
        torch.testing.assert_close(output.logits.softmax(1), expected["probs"][i], atol=1e-5, rtol=0)


def test_a_single_image_gets_the_plain_softmax(backbone, batch):
    output = adapters.create("lame").predict(backbone, {}, batch[:1])

    assert torch.equal(output.logits, backbone.forward(batch[:1]).logits)


@pytest.mark.parametrize("affinity", ["rbf", "knn", "linear"])
@pytest.mark.parametrize("rows", [2, 3, 5, 16])
def test_the_softmax_of_answers_is_the_assignment(backbone, batch, affinity, rows):
    probabilities = adapters.create("lame", affinity=affinity).predict(backbone, {}, batch[:rows]).logits.softmax(1)

    torch.testing.assert_close(probabilities.sum(1), torch.ones(rows))
    assert (probabilities >= 0).all()


def test_copies_of_one_image_are_neighbours_of_one_another():
    features = torch.eye(4)[:1].repeat(8, 1)  # exact, so that no rounding keeps them apart

    kernel = adapters.create("lame")._affinity(features)

    assert torch.equal(kernel, torch.ones(8, 8))


def test_neighbours_come_to_agree():
    # Two tight groups of features; one row of each group leans to the other's class.
    features = normalize(torch.tensor([[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 5) + 0.01 * torch.rand(10, 2))
    probabilities = torch.tensor([[0.9, 0.1]] * 4 + [[0.4, 0.6]] + [[0.1, 0.9]] * 4 + [[0.6, 0.4]])

    corrected = adapters.create("lame")._propagate(probabilities, adapters.create("lame")._affinity(features))

    assert corrected.argmax(1).tolist() == [0] * 5 + [1] * 5


@pytest.mark.parametrize(("setting", "value"), [("affinity", "cosine"), ("neighbours", 0)])
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(ValueError, match=setting):
        adapters.create("lame", **{setting: value})
