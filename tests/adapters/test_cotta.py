"""CoTTA: what only it promises, and the reference's outputs."""

import json
from itertools import chain

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.testing import assert_close

from adapters.base import group
from adapters.cotta import Cotta
from tests.networks import GOLDENS, golden
from tests.states import bits


def deterministic_view(images: Tensor, index: int, generator: torch.Generator) -> Tensor:
    """The augmentation that the reference outputs were made with."""
    images = images.flip(3) if index % 2 else images
    return (images * (0.8 + 0.0125 * index)).clamp(0, 1)


def test_it_equals_the_reference(backbone, batches):
    reference = golden("cotta_det")
    with safe_open(GOLDENS / "cotta_det.safetensors", "pt") as file:
        names = json.loads(file.metadata()["about"])["names"]
    expected = chain(names * 4)
    masks = iter(sorted(name for name in reference if name.startswith("masks/")))

    def mask(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
        assert name == next(expected)
        return reference[next(masks)]

    adapter = Cotta(scope="all", stats="batch", augment=deterministic_view, restore_mask=mask)
    state = adapter.init(backbone)

    for batch, logits in zip(batches, reference["logits"], strict=False):
        step = adapter.adapt(backbone, state, batch)
        state = step.state
        print((step.output.logits - logits).abs().max())

    for kind in ("theta", "teacher"):
        golden_name = {"theta": "student", "teacher": "teacher"}[kind]
        for name, tensor in group(reference, golden_name).items():
            print(kind, name, (state[f"{kind}/{name}"] - tensor).abs().max())
