"""Fixtures that several rooms share."""

import gc
import os

# Threads that fight for cores make small tensors up to twenty times slower; servers that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

from tests.networks import golden, layer_norm_network, reference_network
from tta_server.models import TorchBackbone

gc.disable()  # until the first test: what is imported and collected stays

# By default a law fails where one example takes 0.2 s, which on a busy machine any may. Every run draws others.
settings.register_profile("busy", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say which tests can be longer."""
    parser.addoption("--all-networks", action="store_true", help="try every network of docs/networks.md, not a few")


def pytest_collection_finish() -> None:
    """Leave what was imported and collected out of every later look for garbage: each took 0.2 s.

    A server within this process does the same for itself when it begins, and lets go of everything at its end, of this
    too; so here it does neither. Servers in processes of their own still do.
    """
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.freeze = gc.unfreeze = lambda: None


@pytest.fixture(scope="session")
def backbone() -> TorchBackbone:
    """The network of the reference outputs."""
    return TorchBackbone(reference_network(), (3, 32, 32), name="reference")


@pytest.fixture(scope="session")
def layer_norm_backbone() -> TorchBackbone:
    """A network with LayerNorm and GroupNorm and no BatchNorm."""
    return TorchBackbone(layer_norm_network(), (3, 32, 32), name="layernorm")


@pytest.fixture(scope="session")
def batches() -> Tensor:
    """8 batches of 16 images (8, 16, 3, 32, 32) in [0, 1]; not to be written to."""
    return golden("base")["x"]


@pytest.fixture
def batch(batches: Tensor) -> Tensor:
    """16 images in [0, 1]."""
    return batches[0].clone()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Fix what draws random numbers without a seed of its own."""
    torch.manual_seed(0)
