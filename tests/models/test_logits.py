"""Which of several tensors that a network returns are its logits."""

from collections import namedtuple
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from tests.models import odd
from tests.models.odd import SHAPE, drawn
from tests.models.small import images
from tta_server.models import Custom, Preprocess, TorchBackbone, load
from tta_server.models.logits import Wanted

KINDS = ("embedding", "normalised", "pooled", "maps", "logits")


class Many(odd.Plain):
    """Makes an embedding of six numbers, four auxiliary logits and four logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc, self.aux = nn.Linear(16, 6), nn.Linear(6, 4), nn.Linear(16, 4)

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.maps(x)
        pooled = maps.mean((2, 3))
        embedding = self.embed(pooled)
        return {
            "maps": maps,
            "pooled": pooled,
            "embedding": embedding,
            "normalised": nn.functional.normalize(embedding),
            "logits": self.fc(embedding.relu()),
            "aux": self.aux(pooled),
        }


def returning(*kinds: str, into=tuple) -> nn.Module:
    class Returning(Many):
        def forward(self, x: Tensor) -> object:
            made = self.parts(x)
            return into([made[kind] for kind in kinds])

    return drawn(Returning)


def expected(x: Tensor) -> Tensor:
    return drawn(Many).eval().parts(x)["logits"]


def keyed(*keys: str):
    return lambda made: dict(zip(keys, made, strict=True))


@settings(max_examples=30, deadline=None)
@given(st.permutations(KINDS), st.integers(0, 3))
def test_logits_are_found_among_what_they_are_made_of_in_any_order(kinds, left_out):
    kinds = [kind for kind in kinds if kind == "logits" or kinds.index(kind) >= left_out]

    backbone = TorchBackbone(returning(*kinds), SHAPE)

    assert_close(backbone.forward(images()).logits, expected(images()))
    assert backbone.findings.remarks["head"] == "fc, Linear of 6 features"


@pytest.mark.parametrize("order", [("aux", "logits"), ("logits", "aux")])
@pytest.mark.parametrize(
    ("main", "other"), [("out", "aux"), ("scores", "aux_out"), ("preds", "x_features"), ("output", "embedding")]
)
def test_entries_are_told_apart_by_what_they_are_called(order, main, other):
    keys = [main if kind == "logits" else other for kind in order]

    backbone = TorchBackbone(returning(*order, into=keyed(*keys)), SHAPE)

    assert_close(backbone.forward(images()).logits, expected(images()))
    assert backbone.findings.remarks["logits"] == f"entry '{main}' of what it returns"


@pytest.mark.parametrize("order", [("aux", "logits"), ("logits", "aux")])
@pytest.mark.parametrize("into", [tuple, list, keyed("first", "second"), keyed("aux_a", "aux_b")])
def test_of_two_alike_the_head_decides_and_without_it_they_are_refused(order, into):
    network = returning(*order, into=into)

    with pytest.raises(ValueError, match=r"returns several tensors \(.*\); wrap .* or name the layer .* with --head"):
        TorchBackbone(network, SHAPE)
    assert_close(TorchBackbone(network, SHAPE, head="fc").forward(images()).logits, expected(images()))


@pytest.mark.parametrize("order", [("aux", "logits"), ("logits", "aux")])
def test_a_head_whose_scores_go_through_more_still_decides(order):
    class Scaled(Many):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            made = self.parts(x)
            made["logits"] = made["logits"] / 2
            return tuple(made[kind] for kind in order)

    with pytest.raises(ValueError, match="returns several tensors"):
        TorchBackbone(drawn(Scaled), SHAPE)
    backbone = TorchBackbone(drawn(Scaled), SHAPE, head="fc")
    assert_close(backbone.forward(images()).logits, expected(images()) / 2)


def test_an_embedding_is_not_taken_for_logits_that_a_parameter_makes():
    class ByParameter(Many):
        def __init__(self) -> None:
            super().__init__()
            self.directions = nn.Parameter(torch.randn(4, 6))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            embedding = self.parts(x)["embedding"]
            return embedding, nn.functional.normalize(embedding) @ self.directions.T

    network = drawn(ByParameter)

    assert_close(TorchBackbone(network, SHAPE).forward(images()).logits, network.eval()(images())[1])


def test_the_number_of_classes_decides_where_it_is_known(monkeypatch):
    class Two(odd.Plain):
        def __init__(self) -> None:
            super().__init__()
            self.angle = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            pooled = self.maps(x).mean((2, 3))
            return self.angle(pooled), self.fc(pooled)

    monkeypatch.setattr(odd, "two", lambda: drawn(Two), raising=False)
    wish = Custom(preprocess=Preprocess(SHAPE[1:]), labels=list("abcd"))

    with pytest.raises(ValueError, match="returns several tensors"):
        TorchBackbone(drawn(Two), SHAPE)
    for backbone in (
        load("tests.models.odd:two", custom=wish).backbone,
        TorchBackbone(drawn(Two), SHAPE, head=Wanted(classes=4)),
    ):
        assert_close(backbone.forward(images()).logits, drawn(Two).eval()(images())[1])


class GoogLeNetOutputs(NamedTuple):
    logits: Tensor
    aux_logits2: Tensor


@pytest.mark.parametrize("kind", [GoogLeNetOutputs, namedtuple("Other", ["aux", "out"])])
def test_fields_of_a_named_tuple_are_entries(kind):
    order = ["aux" if "aux" in name else "logits" for name in kind._fields]

    backbone = TorchBackbone(returning(*order, into=lambda made: kind(*made)), SHAPE)

    assert_close(backbone.forward(images()).logits, expected(images()))


def test_logits_beside_their_softmax_are_the_logits():
    class Both(odd.Plain):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            logits = super().forward(x)
            return logits, logits.softmax(1)

    assert_close(TorchBackbone(drawn(Both), SHAPE).forward(images()).logits, drawn(odd.Plain).eval()(images()))


def test_logits_of_one_place_for_each_class_are_read_as_rows():
    class OnePlace(odd.Plain):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Conv2d(16, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.maps(x).mean((2, 3), keepdim=True))

    backbone = TorchBackbone(drawn(OnePlace), SHAPE)

    for rows in (1, 2, 5):
        assert_close(backbone.forward(images(rows)).logits, drawn(OnePlace).eval()(images(rows)).flatten(1))
    assert backbone.spec.features == 16


@pytest.mark.parametrize("last", [lambda z: torch.sigmoid(1.5 * z), lambda z: (z / 3 + 1).sigmoid() * 0.9])
@pytest.mark.parametrize("into", [lambda p: p, lambda p: {"probs": p}, lambda p: p[:, :, None, None]])
@pytest.mark.parametrize("head", [nn.Linear(16, 4), nn.Conv2d(16, 4, 1)], ids=["linear", "conv"])
def test_sigmoids_are_refused_however_they_are_made(last, into, head):
    class Sigmoids(odd.Plain):
        def __init__(self) -> None:
            super().__init__()
            self.fc = head

        def forward(self, x: Tensor) -> object:
            maps = self.maps(x)
            made = self.fc(maps).mean((2, 3)) if isinstance(head, nn.Conv2d) else self.fc(maps.mean((2, 3)))
            return into(last(made))

    with pytest.raises(ValueError, match="it ends in a sigmoid"):
        TorchBackbone(drawn(Sigmoids), SHAPE)


def test_cosines_of_features_that_are_never_below_0_are_no_sigmoids():
    class Cosines(odd.Plain):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("means", torch.rand(4, 16))

        def forward(self, x: Tensor) -> Tensor:
            features = torch.relu(self.maps(x)).mean((2, 3))
            return nn.functional.normalize(features) @ nn.functional.normalize(self.means).T

    assert TorchBackbone(drawn(Cosines), SHAPE).spec.classes == 4


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 5), st.floats(0.05, 0.9), st.floats(1e-3, 0.05), st.booleans())
def test_logits_that_happen_to_lie_between_0_and_1_are_served(classes, bias, scale, normed):
    class Narrow(odd.Plain):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.LayerNorm(16) if normed else nn.Identity()
            self.fc = nn.Linear(16, classes)
            nn.init.normal_(self.fc.weight, 0, scale * 0.1)
            nn.init.constant_(self.fc.bias, bias)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.last(self.maps(x).mean((2, 3))))

    network = drawn(Narrow)

    assert_close(TorchBackbone(network, SHAPE).forward(images()).logits.softmax(1), network.eval()(images()).softmax(1))
