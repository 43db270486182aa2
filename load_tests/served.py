"""One stream that a server's own worker answers and teaches, in this process."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tta_server.app import open_storage
from tta_server.models import Model
from tta_server.runtime.assemble import assemble, network
from tta_server.runtime.job import Job
from tta_server.settings_file import load_settings
from tta_server.streams.window import prepared
from tta_server.telemetry.metrics import Metrics
from tta_server.wanted import make_adapter

_STREAM = "camera"


class ServedStream:
    """A stream of a server with these settings; nothing of it is kept."""

    def __init__(self, model: Model, settings: Mapping[str, Any]) -> None:
        """Begin with a fresh server.

        Args:
            model: What it serves, with its bundle.
            settings: Sections of the configuration; the rest have their defaults.
        """
        chosen = load_settings(None, dict(settings))
        adapter = make_adapter(chosen.adapter)
        metrics = Metrics(model.backbone.spec.name, adapter.name)
        storage = open_storage(chosen.storage)
        self._worker, _ = assemble(network(model, chosen), model.reference, adapter, chosen, metrics, storage)

    @property
    def domains(self) -> list[str]:
        """Names of the domains that it has."""
        return list(self._worker.parts.registry.domains(_STREAM))

    def answer(self, x: Tensor) -> Tensor:
        """Answer a request of images (N, C, H, W) in [0, 1], then learn what is due; returns probabilities (N, K)."""
        images = (x * 255).round().to(torch.uint8).numpy()
        job = Job(_STREAM, prepared(np.ascontiguousarray(images)), time.monotonic())
        self._worker.answer([job])
        while (due_s := self._worker.due_s()) is not None and due_s <= time.monotonic():
            self._worker.learn(time.monotonic())
        return torch.from_numpy(job.future.result(0).probabilities.copy())
