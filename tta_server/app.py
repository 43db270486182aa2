"""Wire everything together: the one place that sees all of it."""

import gc
import shutil
import tempfile
import weakref
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import torch
from fastapi import FastAPI

from tta_server import __version__, models
from tta_server.api import audit, health, infer, labels, predict, responses, states, streams
from tta_server.api.caller import Callers
from tta_server.api.decoding import Decoding
from tta_server.api.middleware import Accounting, BodyLimit
from tta_server.models import Backbone, Model, Preprocess
from tta_server.models.robust import robust
from tta_server.runtime.assemble import Kept, assemble
from tta_server.runtime.engine import Engine
from tta_server.settings import EngineSettings, ModelSettings, Settings, StorageSettings, make_adapter, make_preprocess
from tta_server.storage.audit import Audit
from tta_server.storage.keeper import Keeper
from tta_server.storage.store import Store
from tta_server.telemetry.metrics import Metrics

_DESCRIPTION = "Predictions from a frozen network that adapts to each stream of input while it answers."


@dataclass(frozen=True)
class Service:
    """A server that is ready to be started.

    Attributes:
        app: The ASGI application; its lifespan starts and stops the engine.
        engine: Who answers.
        model: What is served.
        settings: The configuration in force.
    """

    app: FastAPI
    engine: Engine
    model: Model
    settings: Settings


def build(settings: Settings, model: Model | None = None) -> Service:
    """Load the model and put the server together; no request is answered before the app's lifespan begins.

    The storage is taken at once, and given back when the lifespan ends.

    Args:
        settings: The configuration.
        model: Served instead of the one that the configuration names; for embedding and tests.

    Raises:
        ValueError: If the model cannot be loaded, the adapter does not fit it, or what is stored fits neither.
        OSError: If the storage cannot be written.
    """
    model = model or load_model(settings.model)
    name = settings.model.name or model.backbone.spec.name
    metrics = Metrics(name, settings.adapter.name, settings.streams.max_labelled)
    adapter = make_adapter(settings.adapter)
    kept = open_storage(settings.storage)
    try:
        worker, commands = assemble(served(model, settings), model.reference, adapter, settings, metrics, kept)
    except Exception:
        kept.keeper.close()
        raise
    metrics.on_render(lambda: metrics.stored(kept.keeper.behind_s, kept.keeper.failures, kept.keeper.lost))
    engine = Engine(worker, commands, settings.engine, metrics, settings.streams.idle_s)
    pool = ThreadPoolExecutor(settings.limits.decode_threads, thread_name_prefix="decode")

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        # What is alive now lives as long as the process: keep the collector from walking all of torch under load.
        gc.collect()
        gc.freeze()
        yield
        if engine.stop() and kept.durable:
            commands.save()  # also what no step has written: the guard's memory, images that wait
        kept.keeper.close()
        pool.shutdown()
        gc.unfreeze()

    app = FastAPI(title="tta-server", version=__version__, description=_DESCRIPTION, lifespan=lifespan)
    rows = settings.engine.max_rows
    shape = model.preprocess.input_shape
    callers = Callers(settings.limits.client_header)
    decoding = Decoding(model.preprocess, settings.limits, pool, engine, metrics)
    app.include_router(predict.router(engine, name, model.labels, decoding, rows, callers))
    app.include_router(streams.router(engine, callers))
    app.include_router(states.router(engine, kept, callers))
    app.include_router(audit.router(engine, kept))
    app.include_router(labels.router(engine, model.labels))
    app.include_router(health.router(engine, metrics))
    app.include_router(infer.router(engine, name, __version__, shape, model.labels, rows, settings.limits, callers))
    responses.install(app)
    app.add_middleware(BodyLimit, max_bytes=settings.limits.max_body_bytes)
    app.add_middleware(Accounting, metrics=metrics)
    return Service(app, engine, model, settings)


def served(model: Model, settings: Settings) -> Backbone:
    """Return the network as adapters see it: with the statistics that the configuration asks for."""
    return robust(model.backbone, settings.statistics.full_rows, settings.statistics.median)


def use_threads(settings: EngineSettings) -> None:
    """Give torch the CPU threads that the configuration names; what it computes may depend on them in the last bits."""
    torch.set_num_threads(settings.threads or max(1, torch.get_num_threads() - 1))


def open_storage(settings: StorageSettings) -> Kept:
    """Take the storage that the configuration names; without one, a folder that is gone when the process ends.

    Raises:
        ValueError: If it cannot be used, or another server has it.
        OSError: If it cannot be written.
    """
    url = settings.url or tempfile.mkdtemp(prefix="tta-server-")
    store = Store(url, settings.keep_states, settings.keep_snapshots, settings.inputs_max_bytes)
    audit = Audit(store.files, settings.audit_segment_bytes, settings.audit_segments)
    keeper = Keeper(store, audit, settings.save_every_s if settings.url else 0.0)
    if not settings.url:
        weakref.finalize(store, shutil.rmtree, url, ignore_errors=True)
    keeper.start()
    return Kept(store, audit, keeper, bool(settings.url))


def load_model(settings: ModelSettings, calibrated: bool = True) -> Model:
    """Load the model that the configuration names, onto the device it names.

    Args:
        settings: The section of the configuration.
        calibrated: Whether to look for a reference bundle; not so while one is made.

    Raises:
        ValueError: If that is not possible.
    """
    preprocess: Preprocess | None = None
    if settings.preprocess is not None:
        preprocess = make_preprocess(settings.preprocess)
    return models.load(
        settings.architecture,
        weights=settings.weights,
        sha256=settings.sha256,
        labels=settings.labels,
        classes=settings.classes,
        preprocess=preprocess,
        head=settings.head,
        device=_device(settings.device),
        reference=settings.reference,
        calibrated=calibrated,
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device '{name}' is not known; use 'cpu', 'cuda', 'cuda:1' or 'auto'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device '{name}' is not available: torch sees no GPU; use 'cpu' or 'auto'")
    return device
