"""Every adapter on torchvision's vision transformer: those that can learn do, the others say at start-up why not."""

import pytest
import torch
from torchvision.models import VisionTransformer

from tests.networks import bundle
from tta_server import adapters
from tta_server.models import TorchBackbone

# Small images, few views: the network is made of what vit_b_16 is made of, but narrow and shallow.
SETTINGS: dict[str, dict] = {
    "eata": {"e_margin": 1.0, "d_margin": 1.0},
    "sar": {"e_margin": 1.0},
    "adanpc": {"threshold": 0.0},
    "rotta": {"capacity": 4},
    "cotta": {"views": 2},
    "vida": {"views": 2, "rank_high": 2, "targets": ("encoder.layers.encoder_layer_0.*",)},
}
LEARNS_NOTHING = ("source", "lame")


@pytest.fixture(scope="module")
def transformer() -> TorchBackbone:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = VisionTransformer(32, 16, 3, 4, 64, 256, num_classes=10)
        torch.nn.init.normal_(network.heads.head.weight, std=0.02)  # torchvision starts the head at zero
    return TorchBackbone(network, (3, 32, 32), name="transformer")


@pytest.mark.parametrize("name", [name for name in adapters.names() if name != "bn"])
def test_it_runs_on_a_vision_transformer(transformer, name):
    adapter = adapters.create(name, **SETTINGS.get(name, {}))
    reference = bundle(transformer)
    adapters.base.check(adapter, transformer, reference)
    state = adapter.init(transformer, reference)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    step = adapter.adapt(transformer, state, images)

    assert step.output.logits.isfinite().all()
    assert bool(step.scalars["accepted"]) == (name not in LEARNS_NOTHING)
    assert torch.isfinite(adapter.predict(transformer, step.state, images).logits).all()
    assert transformer.digest() == transformer.spec.digest


def test_the_one_that_needs_batch_norm_says_so(transformer):
    with pytest.raises(ValueError, match="adapter 'bn' needs batchnorm, which backbone 'transformer' does not have"):
        adapters.base.check(adapters.create("bn"), transformer)
