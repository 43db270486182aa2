"""Networks as people have them: served right, with what is off said, or refused in one line."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.models import odd
from tests.models.odd import SHAPE, drawn
from tests.models.small import images
from tta_server.adapters import registered
from tta_server.adapters.base import check
from tta_server.adapters.laws.subject import bundle
from tta_server.calibrate.bundle import calibrate
from tta_server.models import TorchBackbone
from tta_server.runtime.needs import expect_room

SERVED = [
    odd.Counting,
    odd.Squeezed,
    pytest.param(odd.WeightNorm, marks=pytest.mark.filterwarnings("ignore:.*weight_norm")),
    odd.TiedNorms,
    odd.HalfButNorms,
    odd.Softmaxed,
    odd.SoftmaxedTwice,
    odd.Several,
    odd.ConvHead,
    odd.CosineHead,
    odd.Headless,
    odd.Finer,
    odd.SoftmaxedCoarser,
]


def served(kind: type[nn.Module], **more: object) -> TorchBackbone:
    return TorchBackbone(drawn(kind), SHAPE, **more)


@pytest.mark.parametrize("kind", SERVED)
def test_what_is_answered_is_what_the_network_says_whatever_was_asked_before(kind):
    backbone, x = served(kind), images(5)
    network = drawn(kind).eval()
    with torch.no_grad():
        said = network(x.to(next(network.parameters()).dtype))
    said = said["probabilities"] if isinstance(said, dict) else said[-1] if isinstance(said, tuple) else said
    probabilities = said if "Softmaxed" in kind.__name__ else said.softmax(1)

    answers = [backbone.forward(rows).logits.softmax(1) for rows in (x, x[:1], x, x[2:3])]

    half = kind in (odd.HalfButNorms, odd.SoftmaxedCoarser)
    close = {"atol": 2e-2, "rtol": 0} if half else {"atol": 1e-5, "rtol": 0}
    for answer, rows in zip(answers, (slice(5), slice(1), slice(5), slice(2, 3)), strict=True):
        assert_close(answer, probabilities[rows], **close)
    assert backbone.digest() == backbone.spec.digest
    assert backbone.findings.apart


@pytest.mark.parametrize("kind", SERVED)
@pytest.mark.parametrize("adapter", registered(), ids=lambda adapter: adapter.name)
def test_every_adapter_learns_from_a_small_window_and_from_one_image(kind, adapter):
    backbone = served(kind)
    needs = {one for one in adapter.requires if not one.startswith("reference.")}
    assert needs <= backbone.spec.capabilities
    if (kind, adapter.name) == (odd.WeightNorm, "vida"):  # whose weights are computed from others
        with pytest.raises(ValueError, match="no layer for adapters"):
            adapter.init(backbone)
        return
    state = adapter.init(backbone, bundle(adapter, backbone))

    for rows in (4, 12, 64):
        step = adapter.adapt(backbone, state, images(rows))
        state = step.state
        assert step.output.logits.shape == (rows, 4)

    assert backbone.digest() == backbone.spec.digest


@pytest.mark.parametrize("adapter", registered(), ids=lambda adapter: adapter.name)
def test_no_adapter_is_taken_that_needs_a_gradient_where_there_is_none(adapter):
    backbone, x = served(odd.WithoutGradient), images(8)

    assert {"grad", "batchnorm"} <= backbone.spec.capabilities  # of the head's weights
    assert "norm_affine" not in backbone.spec.capabilities
    if adapter.requires & {"norm_affine"}:
        with pytest.raises(ValueError, match="needs norm_affine, which backbone 'withoutgradient' does not have"):
            check(adapter, backbone)
    elif adapter.name == "vida":
        with pytest.raises(
            ValueError, match="'vida' cannot learn on backbone 'withoutgradient': RuntimeError: no grad"
        ):
            expect_room(adapter, backbone, adapter.init(backbone), 8)
    else:
        adapter.adapt(backbone, adapter.init(backbone, bundle(adapter, backbone)), x)


def test_a_bundle_lacks_the_parts_that_a_network_without_a_gradient_has_none_of():
    backbone = served(odd.WithoutGradient)
    levels = np.random.default_rng(0).integers(0, 256, (64, *SHAPE), dtype=np.uint8)

    found = calibrate(backbone, levels, np.arange(64) % 4)

    assert "null" in found.parts
    assert found.parts.isdisjoint({"fisher", "vida"})
    assert found.about["left_out"]["vida"].startswith("cannot be made: ValueError: no gradient")


def test_tied_norms_follow_statistics_of_their_own_and_their_own_scale():
    backbone = served(odd.TiedNorms)

    assert {"bn.weight", "bn2.weight"} <= set(backbone.norm_affine())
    other = backbone.forward(images(), {"bn2.weight": torch.zeros(16)}).logits
    assert not torch.equal(other, backbone.forward(images(), {"bn.weight": torch.zeros(16)}).logits)


def test_what_the_network_says_of_itself_names_what_is_off_and_why():
    said = {kind: served(kind).findings.remarks for kind in (*SERVED[:2], *odd.MIXING, odd.Random, odd.Softmaxed)}

    assert said[odd.Counting]["buffers"] == "centre, seen: written in forward, and as frozen in each"
    assert "given to it twice" in said[odd.Squeezed]["single images"]
    assert said[odd.Random]["repeats"].startswith("no: ")
    assert "every request has a forward of its own" in said[odd.BatchMean]["rows"]
    assert "probabilities" in said[odd.Softmaxed]["logits"]
    for kind in (odd.Mirrored, odd.TokensFirst, odd.Crops):
        assert said[kind]["rows"].startswith("apart")
        assert said[kind]["stacking"] == "off: a stream's answer depends on the streams beside it; streams take turns"


def test_a_network_found_uneven_while_it_is_stacked_is_not_stacked_again(caplog):
    backbone = served(odd.Ghost)
    assert backbone.findings.stacks

    with pytest.raises(ValueError, match="layer 'bn' was given 6 rows for 12 images"):
        backbone.forward_stacked(torch.rand(3, 4, *SHAPE))

    assert not backbone.findings.stacks
    assert "streams of 'ghost' take turns from now on" in caplog.text


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (odd.OneLogit, r"it makes one number for each image, expected one for each class; for two classes return"),
        (odd.Sigmoids, r"it ends in a sigmoid, .* return the logits of such classes"),
        (odd.FixedBatch, r"it cannot run on 3 images of shape \(3, 8, 8\): RuntimeError"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(kind, reason):
    with pytest.raises(ValueError, match=f"network '{kind.__name__.lower()}' cannot be served: {reason}") as error:
        served(kind)

    assert "\n" not in str(error.value)


def test_a_mapping_with_several_tensors_is_read_by_the_name_logits():
    class Output(OrderedDict):
        pass

    class Named(odd.Plain):
        def forward(self, x: Tensor) -> Output:
            features = self.maps(x).mean((2, 3))
            return Output(hidden=features, logits=self.fc(features))

    backbone = served(Named)

    assert_close(backbone.forward(images()).logits, served(odd.Plain).forward(images()).logits)
    assert backbone.findings.remarks["logits"] == "entry 'logits' of what it returns"


def test_several_tensors_of_which_none_is_known_as_the_logits_are_refused_by_name():
    class Two(odd.Plain):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            maps = self.maps(x)
            return {"mean": maps.mean((2, 3)), "most": maps.amax((2, 3))}

    with pytest.raises(ValueError, match=r"several tensors \('mean' \(3, 16\), 'most' \(3, 16\)\); wrap the network"):
        served(Two)


def test_a_network_that_cannot_be_copied_is_refused():
    class Holds(odd.Plain):
        def __deepcopy__(self, memo: dict) -> None:
            raise TypeError("cannot pickle\nthe lock")

    with pytest.raises(ValueError, match=r"Holds cannot be copied \(TypeError: cannot pickle the lock\)"):
        served(Holds)
