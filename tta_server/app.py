"""Wire everything together: the one place that sees all of it."""

import asyncio
import gc
import linecache
import shutil
import socket
import sys
import tempfile
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from fastapi import Depends, FastAPI

from tta_server import __version__, models
from tta_server.api import (
    audit,
    calibrate,
    compare,
    domains,
    drift,
    hand_over,
    health,
    labels,
    page,
    predict,
    states,
    strange,
    streams,
)
from tta_server.api.caller import Callers
from tta_server.api.front import parameters, responses
from tta_server.api.front.application import Application
from tta_server.api.front.document import operation_id
from tta_server.api.front.hot import Hot
from tta_server.api.front.manners import Heads
from tta_server.api.front.middleware import Accounting
from tta_server.api.front.permission import OPEN, Gatekeeper, name_of_key
from tta_server.api.front.receiving import Receiving
from tta_server.api.front.tracing import Tracing
from tta_server.api.protocol import infer, metadata, repository
from tta_server.domains.space import styled_layers
from tta_server.keys.files import follow, open_keyring
from tta_server.models import Custom, Model, Preprocess
from tta_server.models.answering import Chosen, answering
from tta_server.models.onnx_file import SUFFIX
from tta_server.runtime.assemble import make_served
from tta_server.runtime.roster import Roster
from tta_server.runtime.served import Served, Storage
from tta_server.settings import EngineSettings, Settings, StorageSettings
from tta_server.settings_models import ModelSettings
from tta_server.storage.audit import Audit
from tta_server.storage.keeper import Keeper
from tta_server.storage.ring import Ring
from tta_server.storage.store import Store
from tta_server.telemetry.bursts import Bursts
from tta_server.telemetry.closed_sets import TurnedAway
from tta_server.telemetry.tracing import Tracer
from tta_server.wanted import make_preprocess

_TURN_S = 0.00002  # of a thread of Python
_YOUNG = 10_000  # objects before the collector looks: a request leaves no cycles, and some at once are 700 objects
_DESCRIPTION = "Predictions from a frozen network that adapts to each stream of input while it answers."


@dataclass(frozen=True)
class Service:
    """A server that is ready to be started.

    Attributes:
        app: The ASGI application; its lifespan starts what is served, if nobody has, and stops it.
        models: What is served: started before the first request, stopped by the application.
        served: The first model, and everything that answers for it.
        settings: The configuration in force.
        bursts: Tells what is refused.
    """

    app: FastAPI
    models: Roster
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
    _expect_fit(settings)
    first = _served(settings, model)
    makers = {name: partial(_served, _of_model(settings, name)) for name in settings.repository.models}
    loaded = {first.name: first}
    try:
        if first.name in makers:
            raise ValueError(f"repository.models has a model called '{first.name}', and so is the first one")
        for name, make in makers.items():
            loaded[name] = make()
    except Exception:
        for each in loaded.values():
            each.storage.keeper.close()
        raise
    bursts = Bursts()
    models = Roster(loaded, makers)
    return Service(make_app(models, settings, bursts), models, first, settings, bursts)


def _expect_fit(settings: Settings) -> None:
    """Raise a ValueError if servers that share a storage could not hand streams over."""
    if settings.storage.shared and settings.repository.models:
        raise ValueError("repository.models and storage.shared do not go together: only one model is handed over")
    if settings.storage.peers and settings.server.tls_certificate:
        raise ValueError(
            "storage.peers and server.tls_certificate do not go together: replicas ask one another over HTTP; have "
            "the balancer speak TLS"
        )


def _served(settings: Settings, model: Model | None = None) -> Served:
    """Return the model that the configuration names first, or the one given, with its storage."""
    model = with_answers(model or load_model(settings.model), settings.model)
    storage = open_storage(settings.storage, settings.server.port)
    try:
        return make_served(settings.model.name or model.backbone.spec.name, model, settings, storage)
    except Exception:
        storage.keeper.close()
        raise


def _of_model(settings: Settings, name: str) -> Settings:
    """Return the configuration of a server that has another model alone; it keeps what it learns in its own folder."""
    model = settings.repository.models[name].model_copy(update={"name": name})
    url = f"{settings.storage.url.rstrip('/')}/models/{name}" if settings.storage.url else ""
    return settings.model_copy(update={"model": model, "storage": settings.storage.model_copy(update={"url": url})})


def make_app(models: Roster, settings: Settings, bursts: Bursts | None = None) -> FastAPI:
    """Return the ASGI application.

    Args:
        models: What is served; paths without a model's name mean the first.
        settings: The configuration.
        bursts: Tells what is refused; its own if None.

    Raises:
        ValueError: If keys cannot be read, or what tokens or traces need is not installed.
    """
    first = models.first
    keyring = open_keyring(settings.auth)
    bursts, asked = bursts or Bursts(), settings.tracing
    tracer = Tracer.to(asked.endpoint, asked.share) if asked.endpoint else None

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        models.start()
        door = None
        if settings.server.grpc_port is not None:
            from tta_server.grpc_door.door import Door  # an extra: imported when it is asked for

            server, limits = settings.server, settings.limits
            door = Door(app, server, limits, partial(name_of_key, keyring), turned_away(first, bursts))
            await door.open()
        following = asyncio.create_task(follow(settings.auth, keyring)) if keyring else None
        linecache.clearcache()  # torch has read its own source, 25,000 lines
        # What is alive now lives as long as the process: keep the collector from walking all of torch under load.
        gc.collect()
        gc.freeze()
        usual = gc.get_threshold()
        gc.set_threshold(_YOUNG)
        yield
        gc.set_threshold(*usual)
        if following:
            following.cancel()
        if door:
            await door.close()
        models.stop()
        if tracer:
            tracer.stop()
        gc.unfreeze()

    app = Application(
        title="tta-server",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere; `page` has one that does not
        redoc_url=None,
        redirect_slashes=False,  # to the host that the request names, whoever that is
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # this server has its own of each
        generate_unique_id_function=operation_id,
        dependencies=[Depends(parameters.refuse_unknown)],
    )
    callers = Callers(settings.limits.client_header, settings.server.trusted_proxies)
    asked_most = predict.router(models, callers), infer.router(models, callers)
    for router in asked_most:
        app.include_router(router)
    app.include_router(compare.router(models, callers))
    app.include_router(page.router(__version__))
    app.include_router(streams.router(models, callers))
    app.include_router(states.router(models, callers))
    app.include_router(domains.router(models, callers))
    app.include_router(drift.router(models))
    app.include_router(strange.router(models))
    if first.tenure is not None:
        app.include_router(hand_over.router(first.tenure))
    app.include_router(audit.router(models))
    app.include_router(calibrate.router(models, callers))
    app.include_router(labels.router(models))
    app.include_router(health.router(models))
    app.include_router(repository.router(models))
    app.include_router(metadata.router(models, __version__))
    responses.install(app, OPEN if keyring else None)
    app.add_middleware(Heads)
    app.add_middleware(Hot, routes=[route for router in asked_most for route in router.routes])
    app.add_middleware(Receiving, limits=settings.limits, refused=first.metrics.refused)
    app.add_middleware(
        Gatekeeper,
        keyring=keyring,
        admin_port=settings.server.admin_port,
        model=first.name,
        tenure=first.tenure,
        refused=first.metrics.refused,
        is_page=page.is_open,
    )
    app.add_middleware(
        Accounting,
        metrics=models.metrics_of,
        bursts=bursts,
        access=settings.logging.access,
    )
    if tracer:
        app.add_middleware(Tracing, tracer=tracer)
    return app


def turned_away(first: Served, bursts: Bursts) -> Callable[..., None]:
    """Return what counts and tells whoever is turned away before a request of his is one: why, and in more words."""

    def refused(reason: TurnedAway, more: str = "") -> None:
        first.metrics.refused(reason)
        bursts.refused(f"{reason} ({more})" if more else reason)

    return refused


def use_threads(settings: EngineSettings) -> None:
    """Give torch the CPU threads that the configuration names; what it computes may depend on them in the last bits.

    And let Python's threads take turns sooner than the usual 5 ms: the device thread asks for the interpreter after
    each of some dozens of operations, and a busy event loop would keep it waiting that long for each.
    """
    sys.setswitchinterval(_TURN_S)
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
        kept = keeper.start()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"storage '{url}' cannot be used: {reason}; set storage.url to a folder that this process can write, or to "
            "an s3:// or gs:// address"
        ) from error
    if not settings.url:
        weakref.finalize(store, shutil.rmtree, url, ignore_errors=True)
    return Storage(store, audit_log, keeper, bool(settings.url), Ring(), kept)


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
        custom=Custom(
            settings.labels,
            settings.classes,
            preprocess,
            settings.head,
            settings.dtype,
            settings.memory_format,
            settings.arguments,
        ),
        device=_device(settings.device),
        reference=settings.reference,
        calibrated=calibrated,
    )


def with_answers(model: Model, settings: ModelSettings) -> Model:
    """Return the model with what answers for it, as the configuration asks."""
    if settings.architecture.endswith(SUFFIX):
        return replace(model, answers=Chosen(model.backbone, "onnx: the model is a file of it"))
    reference = model.reference
    answers = answering(model.backbone, settings.runtime, reference, styled_layers(reference))
    return replace(model, answers=answers)


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
