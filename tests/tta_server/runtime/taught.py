"""A stream that has learnt, and what the frozen model says beside it."""

import numpy as np
import torch

from tests.tta_server.runtime.fakes import Wired, ask, learn_all, rows, tiny, wired


def frozen(images: np.ndarray) -> np.ndarray:
    return tiny().forward(torch.from_numpy(images).float() / 255).logits.softmax(1).numpy()


def taught(count: int = 3, **keys: object) -> Wired:
    """Return a worker whose stream 'door' has learnt from so many windows."""
    subject = wired(**keys)
    for seed in range(count):
        ask(subject, "door", rows(4, seed))
        learn_all(subject)
    return subject


def images_of(subject: Wired, name: str = "door") -> np.ndarray:
    return ask(subject, name, rows(4, 99)).probabilities
