"""Try many networks and table what can be done with each: `python -m docs.write_networks`, from the root.

It takes about half an hour on one core. The page is committed; a test tries a few of the networks again and compares,
and `make test-networks` tries all.
"""

import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn

from tests.models import odd
from tta_server.adapters import create, registered
from tta_server.adapters.stack import adapt_stacked, predict_stacked
from tta_server.inspect_command import attempt
from tta_server.models import Backbone, Custom, Model, Preprocess, Reference, TorchBackbone, load
from tta_server.models.sources import find

PAGE = Path(__file__).with_name("networks.md")
MARK = "<!-- What follows is written by docs/write_networks.py. -->\n"
HEADING = "| network | pixels | norm layers | requests share a forward | streams are stacked | adapters |"

_CLASSES = 10
_FAR, _FAR_IN_HALF = 1e-5, 1e-2  # of the logits' scale

_TORCHVISION = """
    alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5
    mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnet50
    resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_0 squeezenet1_1 swin_t swin_v2_t vgg11 vgg11_bn vit_b_16
"""
_TIMM = """
    convnext_atto convnextv2_atto cspdarknet53 deit_tiny_distilled_patch16_224 densenet121 dla34 dpn48b
    edgenext_xx_small efficientnet_b0 efficientvit_b0 ghostnet_050 hrnet_w18_small inception_v4 lcnet_050
    levit_128s mixer_s32_224 mixnet_s mnasnet_050 mobilenetv2_050 mobilenetv3_small_050 mobilevit_xxs nf_resnet26
    pit_ti_224 poolformer_s12 regnety_002 repvgg_a0 resnet10t resnetv2_50 rexnet_100 test_byobnet
    test_efficientnet_evos test_efficientnet_gn test_efficientnet_ln test_nfnet test_resnet test_vit
    vit_tiny_patch16_224
"""
_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_HF: Mapping[str, tuple[str, dict[str, Any]]] = {
    "ResNet": ("ResNetConfig", {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}),
    "ViT": ("ViTConfig", {**_SMALL, "image_size": 64}),
    "DeiT": ("DeiTConfig", {**_SMALL, "image_size": 64}),
    "BEiT": ("BeitConfig", {**_SMALL, "image_size": 64}),
    "ConvNeXt": ("ConvNextConfig", {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1]}),
    "ConvNeXt V2": ("ConvNextV2Config", {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1]}),
    "Swin": (
        "SwinConfig",
        {"image_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]},
    ),
    "MobileNetV1": ("MobileNetV1Config", {"depth_multiplier": 0.25}),
    "MobileNetV2": ("MobileNetV2Config", {"depth_multiplier": 0.25}),
    "EfficientNet": ("EfficientNetConfig", {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320}),
}
_ODD: Mapping[str, type[nn.Module]] = {
    "image and mirror in one forward": odd.Mirrored,
    "tokens come before images": odd.TokensFirst,
    "crops of all images, crop by crop": odd.Crops,
    "ghost BatchNorm, six rows at a time": odd.Ghost,
    "a part of the batch's mean feature is taken off": odd.BatchMean,
    "buffers written in forward": odd.Counting,
    "a mean kept in an attribute": odd.Remembering,
    "`squeeze()` of a single image": odd.Squeezed,
    "weight norm of the old kind": odd.WeightNorm,
    "two norms share all tensors": odd.TiedNorms,
    "bfloat16 but for its norms": odd.HalfButNorms,
    "random numbers in forward": odd.Random,
    "ends in a softmax": odd.Softmaxed,
    "ends in a softmax, in a dict": odd.SoftmaxedTwice,
    "features and logits in a tuple": odd.Several,
    "auxiliary logits and logits in a dict": odd.Auxiliary,
    "1x1 convolution, then pooling": odd.ConvHead,
    "head of cosines": odd.CosineHead,
    "logits by a parameter of its own": odd.Headless,
    "one logit": odd.OneLogit,
    "ends in a sigmoid": odd.Sigmoids,
    "batches of eight only": odd.FixedBatch,
}


class Tried(NamedTuple):
    """A network to try.

    Attributes:
        name: What the page calls it.
        load: Loads it for images of so many pixels, (H, W) being equal, as a server does.
        sides: Pixels to try; the first that it can run on counts.
    """

    name: str
    load: Callable[[int], TorchBackbone]
    sides: tuple[int, ...]


def networks() -> Iterator[Tried]:
    """Give all networks of the page, in its order."""
    for name in (*_TORCHVISION.split(), *(f"timm/{name}" for name in _TIMM.split())):
        yield Tried(name, partial(_published, name), (64, 96, 224, 0))
    for name, (kind, settings) in _HF.items():
        yield Tried(f"Hugging Face {name}", partial(_hf, kind, settings), (64,))
    for name, network in _ODD.items():
        yield Tried(f"your own: {name}", partial(_own, network), odd.SHAPE[-1:])


def row(tried: Tried) -> str:
    """Return the line of the table for one network."""
    refusal = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, about their own
        for side in tried.sides:
            torch.manual_seed(0)
            try:
                return _served(tried.name, tried.load(side))
            except ValueError as error:
                refusal = str(error)
    return f"| {tried.name} | - | - | - | - | refused: {refusal.partition('cannot be served: ')[2] or refusal} |"


def _served(name: str, backbone: TorchBackbone) -> str:
    if backbone.findings.stacks:
        _check_streams(name, backbone)
    found = backbone.findings
    stacked = found.remarks["stacking"].partition(": ")[2]
    cells = [
        name,
        str(backbone.spec.input_shape[-1]),
        found.remarks["norm layers"],
        "yes" if found.apart else f"no: {found.remarks['rows'].partition(':')[0]}",
        "yes" if found.stacks else f"no: {stacked.partition(';')[0] if found.apart else 'rows are not apart'}",
        _adapters(backbone),
    ]
    return f"| {' | '.join(cells)} |"


def _check_streams(name: str, backbone: TorchBackbone) -> None:
    """Refuse to write what is not so: streams that share forwards and steps answer as each does alone.

    Raises:
        ValueError: If one does not, to 1e-5 of the logits' scale.
    """
    looks = torch.tensor([0.4, 1.0]).view(2, 1, 1, 1, 1)
    xs = torch.rand(2, 4, *backbone.spec.input_shape) * looks
    for method in (create("bn"), create("tent", lr=1e-3)):
        if not method.requires <= backbone.spec.capabilities:
            continue
        begun = [method.init(backbone) for _ in xs]
        try:
            states = [step.state for step in adapt_stacked(method, backbone, begun, xs)]
        except ValueError:  # more rows have shown what few did not: it is not stacked any more
            return
        together = predict_stacked(method, backbone, states, xs).logits
        for state, x, answered in zip(begun, xs, together, strict=True):
            alone = method.predict(backbone, method.adapt(backbone, state, x).state, x).logits
            apart = float((answered - alone).abs().max() / alone.abs().max())
            if apart > (_FAR_IN_HALF if alone.dtype.itemsize < 4 else _FAR):
                raise ValueError(f"{method.name}: a stream of {name} answers {apart:.1g} from what it does alone")


def _adapters(backbone: TorchBackbone) -> str:
    model = Model(backbone, Preprocess(backbone.spec.input_shape[1:]), (), _reference(backbone))
    # As few views as can be: this is about whether they work.
    methods = [dataclasses.replace(m, views=2) if hasattr(m, "views") else m for m in registered()]
    tried = {method.name: attempt(method, model) for method in methods}
    lacking = [name for name, reason in tried.items() if reason]
    if not lacking:
        return "all"
    return (
        f"all but {', '.join(lacking)}"
        if len(lacking) < len(tried) / 2
        else ", ".join(n for n in tried if n not in lacking)
    )


def _reference(backbone: Backbone) -> Reference:
    """Return a bundle with something of all that adapters cannot do without."""
    tensors = {f"fisher/{name}": torch.full_like(tensor, 1e-3) for name, tensor in backbone.norm_affine().items()}
    rows = torch.randn(4 * backbone.spec.classes, backbone.spec.features)
    tensors |= {"memory/features": rows.to(next(iter(backbone.weights().values())).dtype)}
    tensors |= {"memory/labels": torch.arange(len(rows)) % backbone.spec.classes}
    return Reference(backbone.spec.digest, tensors)


def _published(name: str, side: int) -> TorchBackbone:
    """Load a network of a library; 0 pixels are as many as its images have there."""
    found = find(name)
    size = (side, side) if side else found.preprocess.size
    return _loaded(name, found.build(_CLASSES), Custom(classes=_CLASSES, preprocess=Preprocess(size)))


def _own(network: type[nn.Module], side: int) -> TorchBackbone:
    name = f"{network.__module__}:{network.__name__}"
    return _loaded(name, odd.drawn(network), Custom(preprocess=Preprocess((side, side))))


def _loaded(name: str, module: nn.Module, custom: Custom) -> TorchBackbone:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "weights.pth"
        torch.save(module.state_dict(), file)
        return load(name, weights=file, custom=custom).backbone


def _hf(kind: str, settings: dict[str, Any], side: int) -> TorchBackbone:
    config = getattr(transformers, kind)(num_labels=_CLASSES, **settings)
    config.architectures = [kind.replace("Config", "ForImageClassification")]
    with TemporaryDirectory() as folder:
        transformers.AutoModelForImageClassification.from_config(config).save_pretrained(folder)
        return load(f"hf/{folder}", custom=Custom(preprocess=Preprocess((side, side)))).backbone


def main() -> None:
    """Try all networks, write the page and show its lines as they come."""
    lines = []
    for tried in networks():
        lines.append(row(tried))
        print(lines[-1], file=sys.stderr, flush=True)  # noqa: T201
    by_hand = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    table = "\n".join([HEADING, "|---|---|---|---|---|---|", *lines])
    PAGE.write_text(f"{by_hand}{MARK}\n{table}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
