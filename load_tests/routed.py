"""A worker of the server's, in this process, and clean and spoilt images that a network tells apart."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from load_tests.cases import network
from tta_server import adapters
from tta_server.domains.space import PART, fit
from tta_server.drift.watch import Watch
from tta_server.evaluate.corruptions import corrupt
from tta_server.models import Backbone, Reference, TorchBackbone, catalog, glyphs
from tta_server.models.backbone import size_bytes
from tta_server.runtime.assemble import assemble
from tta_server.runtime.job import Job
from tta_server.runtime.served import Storage
from tta_server.settings import DomainsSettings, DriftSettings, EngineSettings, Mode, Settings, StreamsSettings
from tta_server.storage.audit import Audit
from tta_server.storage.keeper import Keeper
from tta_server.storage.ring import Ring
from tta_server.storage.store import Store
from tta_server.streams.stream import Stream
from tta_server.streams.window import Offered, prepared
from tta_server.telemetry.metrics import Metrics

WINDOW = 64
_NAME = "gate"
_SOURCE = 96  # images that random weights are calibrated on
_DEPTHS = 0.1, 0.4  # of the normalisation layers that styles are taken of
_BATCH = 16
_LIMIT = 3.0  # as far as images of one class lie out
_COARSE = 4  # pixels of a random image before it is blown up: noise is then something else


@dataclass(frozen=True, eq=False)
class Scene:
    """A network, and what it is shown.

    Attributes:
        backbone: The network.
        reference: Its bundle, with the style of what is at home.
        home: Clean images, uint8 (64, C, H, W).
        away: Others with noise, uint8 (64, C, H, W).
    """

    backbone: Backbone
    reference: Reference
    home: np.ndarray
    away: np.ndarray

    @property
    def name(self) -> str:
        """What to call the network."""
        return self.backbone.spec.name

    @property
    def shape(self) -> str:
        """Of one image."""
        return "x".join(map(str, self.backbone.spec.input_shape))

    @property
    def space_bytes(self) -> int:
        """What the space in which styles are compared takes, once for all streams: it is kept in double precision."""
        return 2 * size_bytes(self.reference.part(PART))


def scene(name: str, device: torch.device, pixels: int = 224) -> Scene:
    """Return a network and images that it tells apart.

    Args:
        name: "glyphs", with its own images and bundle, or a torchvision classifier with random weights and images.
        device: Where it runs.
        pixels: Side of an image of the latter.
    """
    if name == "glyphs":
        model, images = catalog.load("glyphs", device=device), glyphs.images("test")[0][: 2 * WINDOW]
        assert model.reference is not None, "the embedded network has a bundle"
        return Scene(model.backbone, model.reference, images[:WINDOW], _spoilt(images[WINDOW:]))
    backbone = TorchBackbone(network(name, device).plain, (3, pixels, pixels), name=name, device=device)
    images = _random(_SOURCE + 2 * WINDOW, pixels)
    return Scene(backbone, _bundle(backbone, images[:_SOURCE]), images[_SOURCE:-WINDOW], _spoilt(images[-WINDOW:]))


class Routed:
    """One stream of the server's own worker, its guard on and nothing kept on disk."""

    def __init__(
        self, shown: Scene, window_rows: int, domains: int, mode: Mode = "after", watched: bool = True
    ) -> None:
        """Start a stream that keeps at most so many domains, 1 tells none apart, and whose drift is watched or not."""
        streams = StreamsSettings(mode=mode, duplicate_memory=0)  # the same images are shown again and again
        settings = Settings.model_construct(
            engine=EngineSettings(window_rows=window_rows),
            streams=streams,
            domains=DomainsSettings(max=domains),
            drift=DriftSettings(enabled=watched),
        )
        adapter, store = adapters.create("tent"), Store("memory://routed")
        audit = Audit(store.files)
        storage = Storage(store, audit, Keeper(store, audit), durable=False, ring=Ring())  # its writer is never started
        metrics = Metrics(_NAME, adapter.name)
        self._worker, _ = assemble(shown.backbone, shown.reference, adapter, settings, metrics, storage)
        self._registry = self._worker.parts.registry
        self._seen: set[str] = set()

    @property
    def where(self) -> str:
        """The domains that answered since `settle`."""
        return ", ".join(sorted(self._seen))

    @property
    def streams(self) -> list[Stream]:
        """The stream and its domains, the oldest first."""
        return [self._registry.existing(name) for name in (_NAME, *self._registry.domains(_NAME))]

    @property
    def watch(self) -> Watch:
        """What is known of the stream's drift; nothing before the first request."""
        return self._registry.existing(_NAME).drift

    def settle(self, images: np.ndarray) -> None:
        """Show images, uint8 (n, C, H, W), so that the last ones seen are of their kind."""
        for _ in range(2):
            self.answer(prepared(images))
        self._seen.clear()

    def answer(self, offered: Offered) -> None:
        """Answer a request; nothing is learnt."""
        job = Job(_NAME, offered, time.monotonic())
        self._worker.answer([job])
        self._seen.update(job.future.result(0).domains)

    def learn(self) -> None:
        """Learn from the window that is full, if one is."""
        if self._worker.due_s() is not None:
            self._worker.learn(time.monotonic())


def _bundle(backbone: Backbone, images: np.ndarray) -> Reference:
    """Return a bundle that says how source images look, and nothing else."""
    layers = tuple(backbone.norm_layers[round(depth * len(backbone.norm_layers))] for depth in _DEPTHS)
    styles, classes = [], []
    for x in torch.from_numpy(images).to(backbone.device).float().div(255).split(_BATCH):
        found, output = backbone.styles(x, layers)
        assert output is not None, "an answer was asked for"
        styles.append(found.cpu())
        classes.append(output.logits.argmax(1).cpu())
    values, fitted = torch.cat(styles), 2 * len(images) // 3
    space = fit(layers, values[:fitted], values[fitted:], torch.cat(classes)[:fitted])
    tensors = {f"{PART}/mean": space.mean.float(), f"{PART}/whitener": space.whitener.float()}
    about = {"layers": list(layers), "images": fitted, "limit": _LIMIT}
    return Reference(backbone.spec.digest, tensors, {PART: about})


def _spoilt(images: np.ndarray) -> np.ndarray:
    return corrupt(images, "gaussian_noise", 5)


def _random(count: int, pixels: int) -> np.ndarray:
    """Return smooth images uint8 (n, 3, pixels, pixels)."""
    coarse = torch.rand(count, 3, _COARSE, _COARSE, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(pixels, pixels), mode="bilinear")
    return (255 * smooth).byte().numpy()
