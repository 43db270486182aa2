"""AdaNPC against the authors' code, and what only it promises."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.networks import golden
from tta_server import adapters
from tta_server.adapters.adanpc import _remember
from tta_server.models import Output, Reference


class GivenFeatures:
    """A backbone that answers with prepared features; an image's first pixel says which batch it is."""

    def __init__(self, features: Tensor, classes: int) -> None:
        self.features = features
        self.device = torch.device("cpu")
        self.spec = SimpleNamespace(classes=classes, digest="given")

    def forward(self, x: Tensor, overrides=None, statistics="stored") -> Output:
        features = self.features[int(x[0, 0, 0, 0])]
        return Output(torch.zeros(len(features), self.spec.classes), features)


def memory(features: Tensor, labels: Tensor) -> Reference:
    return Reference("given", {"memory/features": features, "memory/labels": labels})


@pytest.mark.parametrize("confidence", ["vote", "reference"])
def test_it_matches_the_authors_outputs(confidence):
    expected = golden("adanpc")
    # The reference keeps a random first row of label 0 for good; as a source row it votes here too.
    rows = torch.cat([expected["row0"], expected["src_feat"]])
    labels = torch.cat([torch.zeros(1, dtype=torch.int64), expected["src_y"]])
    backbone = GivenFeatures(expected["feats"], 10)
    adapter = adapters.create("adanpc", neighbours=10, temperature=0.1, threshold=0.0, confidence=confidence)
    state = adapter.init(backbone, memory(rows, labels))

    sizes = []
    for i in range(8):
        step = adapter.adapt(backbone, state, torch.full((16, 1, 1, 1), float(i)))
        # Theirs sum to a little more than 1: they add 1e-5 to each.
        votes = expected["votes"][i] / expected["votes"][i].sum(1, keepdim=True)
        torch.testing.assert_close(step.output.logits.softmax(1), votes, atol=1e-5, rtol=0)
        state = step.state
        sizes.append(len(rows) + int(state["ring/added"].sum()))

    assert sizes == [81, 97, 113, 129, 145, 161, 177, 193]
    own = state["ring/features"][torch.arange(state["ring/features"].shape[1])[None] < state["ring/added"][:, None]]
    remembered = expected["memory"][len(rows) :]
    torch.testing.assert_close(own[own[:, 0].argsort()], remembered[remembered[:, 0].argsort()], atol=1e-6, rtol=0)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), share=st.integers(1, 4), classes=st.integers(2, 4))
def test_each_ring_holds_the_newest_rows_of_its_class(data, share, classes):
    state = {"ring/features": torch.zeros(classes, share, 1), "ring/added": torch.zeros(classes, dtype=torch.int64)}
    model: list[list[float]] = [[] for _ in range(classes)]
    number = 0.0

    for _ in range(data.draw(st.integers(1, 4))):
        labels = data.draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=8))
        chosen = data.draw(st.lists(st.booleans(), min_size=len(labels), max_size=len(labels)))
        features = torch.arange(number + 1, number + 1 + len(labels))[:, None]
        number += len(labels)
        state = _remember(state, features, torch.tensor(labels), torch.tensor(chosen))
        for label, keep, value in zip(labels, chosen, features[:, 0].tolist(), strict=True):
            if keep:
                model[label] = [*model[label], value][-share:]

    for ring, kept in zip(state["ring/features"], model, strict=True):
        assert sorted(ring[:, 0][ring[:, 0] > 0].tolist()) == kept


def test_an_unsure_vote_is_not_remembered(backbone, batch):
    reference = memory(torch.randn(20, 64), torch.arange(20) % 10)
    adapter = adapters.create("adanpc", threshold=1.0)
    state = adapter.init(backbone, Reference(backbone.spec.digest, reference.tensors))

    step = adapter.adapt(backbone, state, batch)

    assert not step.scalars["accepted"]
    assert step.scalars["selected"] == 0


def test_it_refuses_to_start_without_its_memory(backbone):
    with pytest.raises(ValueError, match=r"reference.memory.*tta-server calibrate"):
        adapters.base.check(adapters.create("adanpc"), backbone)


@pytest.mark.parametrize(
    ("setting", "value"), [("neighbours", 0), ("capacity", 0), ("temperature", 0.0), ("confidence", "sure")]
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(ValueError, match=setting):
        adapters.create("adanpc", **{setting: value})
