"""Augmented views of a batch: the random view of CoTTA, and how a network is asked about many of them.

Source: Wang et al., CVPR 2022, arXiv:2203.13591, appendix. Reference: cotta/cifar/my_transforms.py.
Differs: padding by half an image before turning it and cropping afterwards is sampling with its edges continued, which
is what happens here, at a quarter of the cost.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from tta_server.models import Backbone, Output, Statistics, Tensors

Augment = Callable[[Tensor, int, torch.Generator], Tensor]
"""From images (N, C, H, W), the number of the view and a CPU generator to a view of the images, of the same shape."""

FORWARD_ROWS = 256
_BLUR_REACH = 2  # pixels to each side
_NOISE = 0.005
_LUMA = (0.2989, 0.587, 0.114)


def augment(images: Tensor, index: int, generator: torch.Generator) -> Tensor:
    """Return a random view of `images` (N, C, H, W): colours, turn, shift, zoom, blur, flip, noise.

    One set of parameters is drawn for the whole batch, on the CPU, so nothing waits for the device of the images.

    Args:
        images: In [0, 1]; saturation and hue are left alone unless there are 3 channels.
        index: Number of the view; not used, each call draws anew.
        generator: On the CPU; drawn from.

    Returns:
        Images in [0, 1] of the same shape.
    """
    height, width = images.shape[2:]
    angle = _uniform(generator, -15, 15)
    # Whole pixels: a sixteenth of the padded image, which is an eighth of the image.
    shift = (round(_uniform(generator, -width / 8, width / 8)), round(_uniform(generator, -height / 8, height / 8)))
    view = _jitter(images.clamp(0, 1), generator)
    view = _sample(view, math.radians(angle), shift, _uniform(generator, 0.9, 1.1))
    view = _blur(view, _uniform(generator, 0.001, 0.5))
    if _uniform(generator, 0, 1) < 0.5:
        view = view.flip(3)
    noise = torch.randn(view.shape, generator=spawn(generator, view.device), device=view.device, dtype=view.dtype)
    return (view + _NOISE * noise).clamp(0, 1)


def spawn(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """Return a generator on `device`, seeded by a draw from `generator`, which is on the CPU."""
    return torch.Generator(device).manual_seed(int(_uniform(generator, 0, 2**53)))


def forward_views(
    backbone: Backbone,
    images: Tensor,
    count: int,
    view: Augment,
    generator: torch.Generator,
    overrides: Tensors,
    statistics: Statistics,
) -> Output:
    """Run the network on `count` views of `images` (N, C, H, W), several views in one forward.

    With `statistics="batch"` each view is normalised by its own statistics, as if it had a forward to itself.

    Returns:
        Logits (count, N, K) and features (count, N, D); no moments.
    """
    together = max(FORWARD_ROWS // max(len(images), 1), 1)
    logits, features = [], []
    for start in range(0, count, together):
        indices = range(start, min(start + together, count))
        stack = torch.stack([view(images, index, generator) for index in indices])
        output = _forward_stack(backbone, stack, overrides, statistics)
        logits.append(output.logits)
        features.append(output.features)
    return Output(torch.cat(logits), torch.cat(features))


def _forward_stack(backbone: Backbone, stack: Tensor, overrides: Tensors, statistics: Statistics) -> Output:
    if statistics == "batch" and "batchnorm" in backbone.spec.capabilities:
        return Output(*torch.vmap(lambda x: backbone.forward(x, overrides, statistics)[:2])(stack))
    logits, features, _ = backbone.forward(stack.flatten(0, 1), overrides, statistics)
    count, rows = stack.shape[:2]
    return Output(logits.reshape(count, rows, -1), features.reshape(count, rows, -1))


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    # Not .item(), which is an operator that would wait for a device.
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64).numpy())


def _jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast, saturation, hue and gamma in random order."""
    brightness, contrast = _uniform(generator, 0.6, 1.4), _uniform(generator, 0.7, 1.3)
    saturation, hue, gamma = (
        _uniform(generator, 0.5, 1.5),
        _uniform(generator, -0.06, 0.06),
        _uniform(generator, 0.7, 1.3),
    )
    changes: list[Callable[[Tensor], Tensor]] = [
        lambda x: (brightness * x).clamp(0, 1),
        lambda x: _blend(x, _gray(x).mean((1, 2, 3), keepdim=True), contrast),
        lambda x: _blend(x, _gray(x), saturation) if x.shape[1] == 3 else x,
        lambda x: _turn_hue(x, hue) if x.shape[1] == 3 else x,
        lambda x: x.clamp(1e-8, 1) ** gamma,
    ]
    for change in torch.randperm(len(changes), generator=generator).tolist():
        images = changes[change](images)
    return images


def _blend(images: Tensor, other: Tensor, share: float) -> Tensor:
    return (share * images + (1 - share) * other).clamp(0, 1)


def _gray(images: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    return sum(share * images[:, i : i + 1] for i, share in enumerate(_LUMA))  # type: ignore[return-value]


def _turn_hue(images: Tensor, turns: float) -> Tensor:
    """Turn the hue of RGB images; saturation and value of the HSV cone stay."""
    red, green, blue = images.unbind(1)
    value, largest = images.max(1)
    chroma = value - images.min(1).values
    divisor = torch.where(chroma == 0, 1.0, chroma)
    sector = torch.where(largest == 1, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    sector = torch.where(largest == 0, (green - blue) / divisor, sector) + 6 * turns
    ramps = [(sector + offset) % 6 for offset in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(ramp, 4 - ramp).clamp(0, 1) for ramp in ramps], 1)


def _sample(images: Tensor, angle: float, shift: tuple[int, int], zoom: float) -> Tensor:
    """Turn, zoom and shift about the centre, with edges continued and as much margin as the blur needs."""
    height, width = images.shape[2:]
    right, down = (
        torch.arange(-_BLUR_REACH, size + _BLUR_REACH, device=images.device, dtype=images.dtype)
        - ((size - 1) / 2 + offset)
        for size, offset in ((width, shift[0]), (height, shift[1]))
    )
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    columns = (cos * right + sin * down[:, None]) * (2 / width)
    rows = (cos * down[:, None] - sin * right) * (2 / height)
    grid = torch.stack([columns, rows], -1).expand(len(images), -1, -1, -1)
    return grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Blur with a Gaussian of 5 x 5 pixels, losing its reach at each edge."""
    heights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-_BLUR_REACH, _BLUR_REACH + 1)]
    kernel = [height / sum(heights) for height in heights]
    for dim in (2, 3):
        size = images.shape[dim] - 2 * _BLUR_REACH
        images = sum(share * images.narrow(dim, i, size) for i, share in enumerate(kernel))  # type: ignore[assignment]
    return images
