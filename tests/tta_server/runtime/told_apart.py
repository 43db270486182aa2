"""Workers whose streams tell domains apart, and a stream that shows several."""

import numpy as np
import torch

from tests.tta_server.runtime.fakes import (
    Wired,
    ask,
    bright,
    dark,
    learn_all,
    rows,
    tiny,
    wired,
)
from tta_server import adapters
from tta_server.runtime.job import Answer


def telling(**keys: object) -> Wired:
    """Return a worker whose streams tell domains apart; windows of 16."""
    return wired(**({"domains": 16, "window": 16, "adapter": adapters.create("tent", lr=0.01)} | keys))


def frozen(images: np.ndarray) -> np.ndarray:
    """Return what the source says (n, K)."""
    return tiny().forward(torch.from_numpy(images).float() / 255).logits.softmax(1).numpy()


def domains(subject: Wired, name: str = "door") -> list[str]:
    return list(subject.worker.parts.registry.domains(name))


SCRIPT = [(dark, 16), (bright, 16), (dark, 8), (rows, 16), (dark, 24), (bright, 9), (dark, 3), (rows, 2), (dark, 16)]


def show(subject: Wired, script: list, begin: int = 0) -> list[Answer]:
    found = []
    for seed, (kind, count) in enumerate(script, begin):
        found.append(ask(subject, "door", kind(count, seed)))
        learn_all(subject)
    return found
