"""Make the weights and the packed images again: `python -m tta_server.models.glyphs.train`.

Needs the Debian packages listed in packages.py; takes about seven minutes on two CPU cores.
"""

import argparse
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from tta_server.models.glyphs import MEAN, STD, WEIGHTS, build, fonts, render
from tta_server.models.glyphs.spec import LABELS

COUNTS = {"training": 60_000, "test": 3_000, "source": 1_000}
BATCH = 128
PEAK_LR = 0.1
WEIGHT_DECAY = 5e-4

Drawn = tuple[NDArray[np.uint8], NDArray[np.int64]]


def main(arguments: list[str] | None = None) -> None:
    """Render, train, measure and write; see `--help`."""
    options = _parse(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Independent streams, so that a larger training set leaves the packed images as they are.
    split_rng, *rngs = (np.random.default_rng(seed) for seed in np.random.SeedSequence(options.seed).spawn(4))
    try:
        training, test = fonts.split(fonts.find(), split_rng)
    except ValueError as error:
        sys.exit(str(error))
    pools = {"training": training, "test": test, "source": training}
    sets = {
        name: render.dataset(pools[name], count, rng, partial(_bar, name, total=count))
        for (name, count), rng in zip(COUNTS.items(), rngs, strict=True)
    }
    torch.manual_seed(options.seed)
    network = build().to(device).to(memory_format=torch.channels_last)
    fit(network, sets["training"], options.epochs, device)
    write(options.out, network, sets)
    report(network, sets, pools, device)


def fit(network: nn.Module, labelled: Drawn, epochs: int, device: torch.device) -> None:
    """Train `network` in place by SGD with a one-cycle learning rate; the images are used as they are.

    Args:
        network: On `device`.
        labelled: Images (N, 3, 32, 32) and labels (N,).
        epochs: Passes over all images, at least 1.
        device: Where to train; the order of the images is drawn from torch's CPU generator everywhere.
    """
    images, labels = (torch.from_numpy(array) for array in labelled)
    batches = len(images) // BATCH
    steps = epochs * batches
    optimizer = torch.optim.SGD(
        network.parameters(), lr=PEAK_LR, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps)
    network.train()
    for epoch in range(epochs):
        # The last, incomplete batch is left out: its statistics would be noisier.
        for rows in torch.randperm(len(images))[: batches * BATCH].view(batches, BATCH):
            batch = normalise(images[rows]).to(device, memory_format=torch.channels_last)
            loss = nn.functional.cross_entropy(network(batch), labels[rows].to(device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            _bar(f"epoch {epoch + 1} of {epochs}", schedule.last_epoch, steps)


def predict(network: nn.Module, images: NDArray[np.uint8], device: torch.device) -> NDArray[np.int64]:
    """Return the most likely label (N,) of images (N, 3, 32, 32) with the stored normalisation statistics."""
    network.eval()
    with torch.inference_mode():
        batches = [network(normalise(batch).to(device)).argmax(1).cpu() for batch in torch.from_numpy(images).chunk(10)]
    labels: NDArray[np.int64] = torch.cat(batches).numpy()
    return labels


def normalise(images: Tensor) -> Tensor:
    """Return bytes (N, 3, 32, 32) as the floats that the network takes."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (images / 255 - mean) / std


def write(folder: Path, network: nn.Module, sets: dict[str, Drawn]) -> None:
    """Write weights.safetensors, test.npz and source.npz into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    (folder / WEIGHTS.name).write_bytes(save(state))
    for name in ("test", "source"):
        images, labels = sets[name]
        np.savez_compressed(folder / f"{name}.npz", images=images, labels=labels)


def report(
    network: nn.Module, sets: dict[str, Drawn], pools: dict[str, list[fonts.Face]], device: torch.device
) -> None:
    """Print what the model card states."""
    lines = [f"parameters {sum(parameter.numel() for parameter in network.parameters())}"]
    pixels = sets["training"][0] / np.float32(255)
    lines += [f"{name} {getattr(pixels, name)(axis=(0, 2, 3)).round(4).tolist()}" for name in ("mean", "std")]
    for name in ("source", "test"):
        images, labels = sets[name]
        predicted = predict(network, images, device)
        packages = Counter(face.package for face in pools[name])
        lines += [f"{name} error {np.mean(predicted != labels):.2%}, {packages.total()} fonts: {dict(packages)}"]
    # The test comes last in the loop above.
    errors = {label: float(np.mean(predicted[labels == row] != row)) for row, label in enumerate(LABELS)}
    worst = sorted(errors.items(), key=lambda item: -item[1])[:6]
    lines += [f"worst classes {[f'{label} {error:.1%}' for label, error in worst]}"]
    wrong = Counter((LABELS[i], LABELS[j]) for i, j in zip(labels, predicted, strict=True) if i != j)
    lines += [f"(true, predicted) {wrong.most_common(8)}"]
    sys.stdout.write("\n".join(lines) + "\n")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the default model from the installed fonts.")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS.parent, help="folder for the weights and packed images")
    return parser.parse_args(arguments)


def _bar(what: str, done: int, total: int) -> None:
    if done == total or done % 50 == 0:
        filled = 30 * done // total
        end = "\n" if done == total else ""
        sys.stderr.write(f"\r{what:<14} [{'#' * filled}{'.' * (30 - filled)}] {done}/{total}{end}")


if __name__ == "__main__":
    main()
