"""What is missing in a bundle is said with what it costs, and a guard works with what is there."""

import pytest

from tests.networks import layer_norm_network
from tests.tta_server.guard.streams import clean, foggy, judged, model
from tta_server import adapters
from tta_server.adapters.base import check
from tta_server.guard.guard import Guard
from tta_server.guard.lacking import COSTS, lacking, sentences
from tta_server.guard.referee import Referee
from tta_server.models import Reference, TorchBackbone
from tta_server.settings import GuardSettings

PARTS = sorted(model().reference.parts - {"onnx"})  # of which the line `runtime` tells
SPEC = model().backbone.spec
LABELLED = {"canary", "memory", "atc", "vida"}


def without(*parts: str) -> Reference:
    """Return the embedded bundle without some parts, and without the accuracy if labels are gone."""
    whole = model().reference
    kept = {name: tensor for name, tensor in whole.tensors.items() if name.partition("/")[0] not in parts}
    about = {key: value for key, value in whole.about.items() if key != "accuracy" or "atc" not in parts}
    return Reference(whole.digest, kept, about)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_a_bundle_has_a_cost_and_is_named_alone(part):
    assert lacking(model().reference, SPEC, adapters.registered()) == {}

    missing = lacking(without(part), SPEC, adapters.registered())

    assert set(missing) == {part}
    assert missing[part]


def test_parts_of_other_adapters_are_not_missed():
    missing = lacking(without(*LABELLED), SPEC, [adapters.create("tent")])

    assert missing.keys() == {"canary", "atc"}
    assert lacking(None, SPEC, []) == COSTS


def test_statistics_are_not_missed_by_a_network_that_keeps_none():
    spec = TorchBackbone(layer_norm_network(), (3, 32, 32)).spec

    assert COSTS.keys() - lacking(None, spec, []).keys() == {"statistics"}


def test_parts_with_one_cost_and_one_reason_are_one_sentence():
    missing = {"a": "dear", "b": "dear", "c": "dear", "d": "cheap"}

    assert sentences(missing, {"c": "late"}) == ["no a, b: dear", "no c (late): dear", "no d: cheap"]


@pytest.mark.parametrize("name", adapters.names())
def test_an_adapter_starts_without_a_part_unless_that_is_said_to_stop_it(name):
    adapter, backbone = adapters.create(name), model().backbone
    for part in PARTS:
        stops = "cannot be used" in lacking(without(part), SPEC, [adapter]).get(part, "")

        if stops:
            with pytest.raises(ValueError, match=f"needs reference.{part}"):
                check(adapter, backbone, without(part))
        else:
            check(adapter, backbone, without(part))
            adapter.init(backbone, without(part))


@pytest.mark.parametrize(
    "parts", [{part} for part in sorted(PARTS)] + [LABELLED, set(PARTS)], ids=lambda parts: "+".join(sorted(parts))
)
def test_a_guard_judges_with_whatever_is_there(parts):
    tent, backbone = adapters.create("tent"), model().backbone
    guard = Guard(backbone, tent, without(*parts), GuardSettings())
    state, memory, x = tent.init(backbone), guard.start(), foggy(clean(0, 16))

    admission = guard.admit(memory, x, backbone.forward(x))
    verdict = judged(guard, tent, admission.memory, state, x)

    assert admission.learn
    assert verdict.action in {"commit", "reject"}
    assert ("estimated_gain" in verdict.measures) == parts.isdisjoint({"features", "confidence", "energy", "histogram"})


def test_without_labels_fewer_answers_are_credible_where_more_are_wrong():
    referee, backbone = Referee(without(*LABELLED)), model().backbone

    near, far = (referee.credible(backbone.forward(x)).double().mean() for x in (clean(0, 128), foggy(clean(0, 128))))

    assert near > 0.85
    assert far < near - 0.2
