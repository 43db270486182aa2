"""What a network takes for images."""

from torch import Tensor


def check_images(x: Tensor, shape: tuple[int, int, int], front: str = "N") -> None:
    """Raise a ValueError unless `x` is a batch of floating images of one shape.

    Whether they are in [0, 1] is not looked at: it would make the host wait for the device.

    Args:
        x: The images.
        shape: (C, H, W) of each.
        front: The dimensions before that: "N", or "S, N" of S streams.
    """
    dims = front.count(",") + 1
    if x.dim() != dims + 3 or tuple(x.shape[dims:]) != shape:
        expected = ", ".join([front, *map(str, shape)])
        raise ValueError(f"image batch has shape {tuple(x.shape)}, expected ({expected}); send channels first")
    if not x.numel():
        raise ValueError("image batch is empty; send at least one image")
    if not x.is_floating_point():
        kind = str(x.dtype).removeprefix("torch.")
        raise ValueError(f"images are {kind}, expected floats in [0, 1]; divide bytes by 255")
