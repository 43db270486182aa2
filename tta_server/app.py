"""Wire everything together: the one place that sees all of it."""

import gc
import shutil
import socket
import tempfile
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import torch
from fastapi import Depends, FastAPI

from tta_server import __version__, models
from tta_server.api import (
    audit,
    compare,
    domains,
    drift,
    hand_over,
    health,
    infer,
    labels,
    metadata,
    page,
    parameters,
    predict,
    repository,
    responses,
    states,
    streams,
)
from tta_server.api.caller import Callers
from tta_server.api.manners import Heads
from tta_server.api.middleware import Accounting
from tta_server.api.permission import OPEN, Gatekeeper
from tta_server.api.receiving import Receiving
from tta_server.keys.keyring import Keyring, read_keys
from tta_server.models import Custom, Model, Preprocess
from tta_server.runtime.assemble import make_served
from tta_server.runtime.served import Served, Storage
from tta_server.settings import EngineSettings, ModelSettings, Settings, StorageSettings
from tta_server.storage.audit import Audit
from tta_server.storage.keeper import Keeper
from tta_server.storage.ring import Ring
from tta_server.storage.store import Store
from tta_server.telemetry.bursts import Bursts
from tta_server.wanted import make_preprocess

_DESCRIPTION = "Predictions from a frozen network that adapts to each stream of input while it answers."


@dataclass(frozen=True)
class Service:
    """A server that is ready to be started.

    Attributes:
        app: The ASGI application; its lifespan starts and stops what is served.
        served: The model, and everything that answers for it.
        settings: The configuration in force.
        bursts: Tells what is refused.
    """

    app: FastAPI
    served: Served
    settings: Settings
    bursts: Bursts


def build(settings: Settings, model: Model | None = None) -> Service:
    """Load the model and put the server together; no request is answered before the app's lifespan begins.

    The storage is taken at once, and given back when the lifespan ends.

    Args:
        settings: The configuration.
        model: Served instead of the one that the configuration names; for embedding and tests.

    Raises:
        ValueError: If the model cannot be loaded, the adapter does not fit it, the storage cannot be used, or what is
            stored fits neither.
    """
    model = model or load_model(settings.model)
    storage = open_storage(settings.storage, settings.server.port)
    try:
        served = make_served(settings.model.name or model.backbone.spec.name, model, settings, storage)
    except Exception:
        storage.keeper.close()
        raise
    bursts = Bursts()
    return Service(make_app({served.name: served}, settings, bursts), served, settings, bursts)


def make_app(served: Mapping[str, Served], settings: Settings, bursts: Bursts | None = None) -> FastAPI:
    """Return the ASGI application.

    Args:
        served: What is served, by name; paths without a model's name mean the first.
        settings: The configuration.
        bursts: Tells what is refused; its own if None.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        for each in served.values():
            each.start()
        # What is alive now lives as long as the process: keep the collector from walking all of torch under load.
        gc.collect()
        gc.freeze()
        yield
        for each in served.values():
            each.stop()
        gc.unfreeze()

    app = FastAPI(
        title="tta-server",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere; `page` has one that does not
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=responses.operation_id,
        dependencies=[Depends(parameters.refuse_unknown)],
    )
    callers = Callers(settings.limits.client_header, settings.server.trusted_proxies)
    app.include_router(predict.router(served, callers))
    app.include_router(compare.router(served, callers))
    app.include_router(page.router(__version__))
    app.include_router(streams.router(served, callers))
    app.include_router(states.router(served, callers))
    app.include_router(domains.router(served, callers))
    app.include_router(drift.router(served))
    app.include_router(hand_over.router(served))
    app.include_router(audit.router(served))
    app.include_router(labels.router(served))
    app.include_router(health.router(served))
    app.include_router(repository.router(served))
    app.include_router(metadata.router(served, __version__))
    app.include_router(infer.router(served, callers))
    keys = settings.auth.keys_file
    responses.install(app, OPEN if keys else None)
    app.add_middleware(Heads)
    first = next(iter(served.values()))
    app.add_middleware(Receiving, limits=settings.limits, told=first.metrics.refused)
    keyring = Keyring(read_keys(keys)) if keys else None
    app.add_middleware(Gatekeeper, keyring=keyring, model=first.name, told=first.metrics.refused)
    app.add_middleware(
        Accounting,
        metrics={name: each.metrics for name, each in served.items()},
        bursts=bursts or Bursts(),
        access=settings.logging.access,
    )
    return app


def use_threads(settings: EngineSettings) -> None:
    """Give torch the CPU threads that the configuration names; what it computes may depend on them in the last bits."""
    torch.set_num_threads(settings.threads or max(1, torch.get_num_threads() - 1))


def open_storage(settings: StorageSettings, port: int = 0) -> Storage:
    """Take the storage that the configuration names; without one, a folder that is gone when the process ends.

    Args:
        settings: The section of the configuration.
        port: Where this server listens, for others that share the storage.

    Raises:
        ValueError: If it cannot be used or written, or another server has it.
    """
    if settings.shared and not settings.url:
        raise ValueError("storage.shared is on, but storage.url is empty; set it to the place that the servers share")
    replica = (settings.replica or socket.gethostname()) if settings.shared else ""
    address = f"http://{replica}.{settings.peers}:{port}" if replica and settings.peers else ""
    url = settings.url or tempfile.mkdtemp(prefix="tta-server-")
    try:
        limits = settings.keep_states, settings.keep_snapshots, settings.inputs_max_bytes
        store = Store(url, *limits, replica=replica, address=address)
        audit_log = Audit(store.files, settings.audit_segment_bytes, settings.audit_segments, replica)
        keeper = Keeper(store, audit_log, settings.save_every_s if settings.url else 0.0)
        keeper.start()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"storage '{url}' cannot be used: {reason}; set storage.url to a folder that this process can write, or to "
            "an s3:// or gs:// address"
        ) from error
    if not settings.url:
        weakref.finalize(store, shutil.rmtree, url, ignore_errors=True)
    return Storage(store, audit_log, keeper, bool(settings.url), Ring())


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
        custom=Custom(settings.labels, settings.classes, preprocess, settings.head),
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
