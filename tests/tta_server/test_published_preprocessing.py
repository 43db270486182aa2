"""A network served as it was published predicts what its own evaluation script predicts, image by image."""

import io
from functools import cache

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from tta_server.models import load
from tta_server.models.sources import architectures, find
from tta_server.runtime.images.codec import Upload, open_image
from tta_server.runtime.work.device import on_device

NAME = "mobilenet_v3_small"
SIZES = ((500, 375), (375, 500), (641, 427), (224, 224), (301, 299), (97, 410), (33, 31), (8, 5), (1, 1), (256, 255))
KINDS = (("RGB", "JPEG"), ("RGB", "PNG"), ("L", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG"))


@cache
def files() -> list[bytes]:
    """Return 200 files of pictures with edges, slopes and grain; every kind in every size."""
    generator = np.random.default_rng(0)
    made = []
    for number in range(200):
        width, height = SIZES[number % len(SIZES)]
        mode, kind = KINDS[number % len(KINDS)]
        coarse = generator.integers(0, 256, (generator.integers(1, 7), generator.integers(1, 7), 3), dtype=np.uint8)
        filter_ = (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)[number % 2]
        levels = np.asarray(Image.fromarray(coarse).resize((width, height), filter_), dtype=np.float64)
        levels = levels + generator.normal(0, generator.uniform(0, 40), levels.shape)
        image = Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert(mode)
        if mode == "RGBA":
            image.putalpha(Image.fromarray(generator.integers(0, 256, (height, width), dtype=np.uint8)))
        file = io.BytesIO()
        image.save(file, kind)
        made.append(file.getvalue())
    return made


def published(name: str, data: bytes) -> Tensor:
    """Return a picture as torchvision's own transform prepares it, (3, H, W)."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    prepared: Tensor = weights.transforms()(Image.open(io.BytesIO(data)).convert("RGB"))
    return prepared


def network(name: str) -> nn.Module:
    """Return a network of random weights that tells pictures apart: its statistics are those of some of them."""
    torch.manual_seed(0)
    module = torchvision.models.get_model(name)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        module.train()(torch.stack([published(name, data) for data in files()[:16]]))
    return module.eval()


def test_two_hundred_images_of_several_sizes_are_predicted_as_torchvisions_own_pipeline_does(tmp_path):
    own = network(NAME)
    torch.save(own.state_dict(), tmp_path / "w.pth")
    model = load(NAME, weights=tmp_path / "w.pth")
    given: list[Tensor] = []
    model.backbone._module.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    predictions = []

    for start in range(0, 200, 40):
        rows = files()[start : start + 40]
        pixels = np.stack([open_image(Upload("image", data)).decode(model.preprocess) for data in rows])
        expected = torch.stack([published(NAME, data) for data in rows])
        with torch.no_grad():
            answered = model.backbone.forward(on_device([pixels], model.backbone.device)).logits
            asked = own(expected)

        assert torch.equal(given[-1], expected)
        assert torch.equal(answered.argmax(1), asked.argmax(1))
        predictions += asked.argmax(1).tolist()

    assert len(set(predictions)) > 20


@pytest.mark.parametrize("name", sorted({str(find(n).preprocess): n for n in architectures()[2:]}.values()))
def test_every_published_preprocessing_of_torchvision_is_equalled_to_the_last_bit(name):
    preprocess = find(name).preprocess
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))

    for data in files()[:4]:
        x = on_device([open_image(Upload("image", data)).decode(preprocess)[None]], torch.device("cpu"))[0]

        assert torch.equal((x - mean) / std, published(name, data))
