"""EATA against the authors' code, and what only it promises."""

import json

import pytest
import torch
from safetensors import safe_open

from tests.networks import GOLDENS, golden
from tests.states import bits
from tta_server import adapters
from tta_server.models import Reference


@pytest.fixture(scope="module")
def reference(backbone) -> Reference:
    fisher = {name: tensor for name, tensor in golden("eata").items() if name.startswith("fisher/")}
    return Reference(backbone.spec.digest, fisher)


def test_it_matches_the_authors_outputs(backbone, batches, reference):
    expected = golden("eata")
    with safe_open(GOLDENS / "eata.safetensors", "pt") as file:
        counts = json.loads(file.metadata()["about"])["counts"]
    adapter = adapters.create("eata", stats="batch", d_margin=0.4)
    state = adapter.init(backbone, reference)

    for i, batch in enumerate(batches):
        step = adapter.adapt(backbone, state, batch)
        state = step.state
        assert [int(step.scalars["reliable"]), int(step.scalars["selected"])] == counts[i]
        torch.testing.assert_close(step.output.logits, expected["logits"][i], atol=1e-5, rtol=0)
        torch.testing.assert_close(state["moving/prediction"], expected["moving_prob"][i], atol=1e-6, rtol=0)

    finals = {name.removeprefix("final/"): tensor for name, tensor in expected.items() if name.startswith("final/")}
    for name, tensor in finals.items():
        torch.testing.assert_close(state[f"theta/{name}"], tensor, atol=1e-6, rtol=0)


def test_a_batch_without_a_reliable_image_changes_nothing(backbone, batches, reference):
    adapter = adapters.create("eata", e_margin=1e-6)
    state = adapter.init(backbone, reference)

    step = adapter.adapt(backbone, state, batches[0])

    assert not step.scalars["accepted"]
    assert bits(step.state) == bits(state)


@pytest.mark.parametrize("classes", [2, 10, 36, 100, 1000])
def test_a_sure_prediction_is_fresh_to_a_uniform_past_for_any_number_of_classes(classes):
    adapter = adapters.create("eata", fisher_alpha=0.0)
    state = {"moving/prediction": torch.full((classes,), 1 / classes), "moving/seen": torch.tensor(True)}
    sure = torch.eye(classes)[:1]
    repeated = {**state, "moving/prediction": sure[0]}

    assert bool(adapter._fresh(state, sure))
    assert not bool(adapter._fresh(repeated, sure))


def test_the_margin_is_the_papers_at_a_thousand_classes():
    adapter = adapters.create("eata", fisher_alpha=0.0)
    sure = torch.eye(1000, dtype=torch.float64)[:2]
    state = {"moving/prediction": sure[0], "moving/seen": torch.tensor(True)}

    def fresh(cosine: float) -> bool:
        return bool(adapter._fresh(state, cosine * sure[:1] + (1 - cosine**2) ** 0.5 * sure[1:]))

    assert [fresh(cosine) for cosine in (0.0, 0.049, 0.051, 1.0)] == [True, True, False, False]


def test_the_fisher_penalty_holds_parameters_near_the_source(backbone, batches, reference):
    distances = []
    for alpha in (0.0, 2000.0, 200000.0):
        adapter = adapters.create("eata", d_margin=1.0, fisher_alpha=alpha, lr=1e-3, momentum=0.0)
        state = adapter.init(backbone, reference)
        for batch in batches:
            state = adapter.adapt(backbone, state, batch).state
        fisher = {name: tensor / tensor.mean() for name, tensor in reference.part("fisher").items()}
        source = backbone.norm_affine()
        moved = [(fisher[name] * (state[f"theta/{name}"] - source[name]).square()).sum() for name in fisher]
        distances.append(float(torch.stack(moved).sum()))

    assert distances[0] > distances[1] > distances[2]


def test_it_refuses_to_start_without_its_fisher_weights(backbone):
    with pytest.raises(ValueError, match=r"reference.fisher.*tta-server calibrate"):
        adapters.base.check(adapters.create("eata"), backbone)

    adapters.base.check(adapters.create("eata", fisher_alpha=0.0), backbone)


@pytest.mark.parametrize(
    ("setting", "value"), [("e_margin", 0.0), ("e_margin", 1.5), ("d_margin", 0.0), ("fisher_alpha", -1.0), ("lr", 0.0)]
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(ValueError, match=setting):
        adapters.create("eata", **{setting: value})
