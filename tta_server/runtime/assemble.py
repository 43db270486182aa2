"""Put a worker together from its parts."""

import logging
import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tta_server import adapters
from tta_server.adapters import Adapter
from tta_server.domains.space import PART, StyleSpace
from tta_server.drift.monitor import Monitor
from tta_server.guard.canary import CanaryImages
from tta_server.guard.guard import Guard
from tta_server.guard.judge import Judge, Unguarded
from tta_server.models import Backbone, Model, Reference
from tta_server.models.robust import measured_share, robust
from tta_server.runtime.commands.stream_commands import Commands
from tta_server.runtime.gathering import Gathering
from tta_server.runtime.images.decoding import Decoding
from tta_server.runtime.needs import expect_room
from tta_server.runtime.queue.engine import Engine
from tta_server.runtime.queue.room import Room
from tta_server.runtime.served import Served, Storage
from tta_server.runtime.tenure import Tenure
from tta_server.runtime.work.answerer import Answerer
from tta_server.runtime.work.learner import Learner, Policy
from tta_server.runtime.work.parts import Parts
from tta_server.runtime.work.router import Router
from tta_server.runtime.work.sharing import Sharing
from tta_server.runtime.work.watcher import Watcher
from tta_server.runtime.work.worker import Worker
from tta_server.settings import DomainsSettings, EngineSettings, Settings
from tta_server.settings_voice import WebhooksSettings
from tta_server.streams.directory import Apart
from tta_server.streams.event import News, keep_books
from tta_server.streams.files.shelf import Shelf
from tta_server.streams.ledger import Ledger
from tta_server.streams.listeners.journal import Journal
from tta_server.streams.listeners.series import Series
from tta_server.streams.listeners.spoken import speak
from tta_server.streams.listeners.waking import Waking
from tta_server.streams.methods import Methods
from tta_server.streams.newcomers import Newcomers
from tta_server.streams.registry import Registry
from tta_server.streams.schedule import Pace
from tta_server.telemetry.metrics import Metrics
from tta_server.telemetry.webhook import Webhook
from tta_server.wanted import make_adapter

log = logging.getLogger(__name__)

_LEAST_ROWS = 16


class Runs(NamedTuple):
    """What runs a network.

    Attributes:
        answers: The network, as it answers.
        steps: The network, as it learns, on a thread of its own.
        compared: The network as it answers, on that thread: what the guard compares.
    """

    answers: Backbone
    steps: Backbone
    compared: Backbone


def make_served(name: str, model: Model, settings: Settings, storage: Storage) -> Served:
    """Return what is served under a name; nothing runs before its `start`.

    Raises:
        ValueError: If the adapter does not fit the network, a stored state does not fit the adapter, a limit leaves no
            room for a request, or memory none for a step.
    """
    metrics = Metrics(name, settings.adapter.name, settings.streams.max_labelled)
    metrics.on_render(lambda: metrics.stored(storage.keeper.behind_s, storage.keeper.failures, storage.keeper.lost))
    adapter = make_adapter(settings.adapter)
    learns = network(model, settings)
    steps = network(model, settings, model.backbone.twin())
    runs = Runs(learns, steps, steps)
    if model.answers and model.answers.backbone is not model.backbone:
        other = model.answers.backbone
        runs = Runs(network(model, settings, other), steps, network(model, settings, other.twin()))
    worker, commands = assemble(learns, model.reference, adapter, settings, metrics, storage, runs)
    together = worker.parts.answerer.sharing.stack_rows if adapter.stackable else 0
    inline = settings.engine.max_rows if settings.streams.mode == "inline" else 0
    most = max(settings.engine.window_rows, together, inline)
    expect_room(adapter, learns, worker.parts.methods.default.initial, most)
    webhook = _webhook(settings.webhooks, metrics)
    if webhook:
        worker.parts.news.listen(Waking(name, webhook.post).hear)
    engine = Engine(worker, commands, _room(model, settings), settings.engine, metrics, settings.streams.idle_s)
    finished, shared = threading.Event(), storage.keeper.shared
    served = Served(
        name=name,
        model=model,
        engine=engine,
        commands=commands,
        methods=worker.parts.methods,
        registry=worker.parts.registry,
        ledger=worker.parts.ledger,
        storage=storage,
        limits=settings.limits,
        metrics=metrics,
        decoding=Decoding(settings.limits),
        gathering=Gathering(
            model,
            settings.model,
            settings.streams.max_client_share,
            lambda about, who: engine.command(lambda c: c.note_gathering(about, who)),
        ),
        webhook=webhook,
        tenure=Tenure(storage.store, storage.keeper, engine, finished) if shared else None,
        finished=finished,
    )
    metrics.on_render(lambda: metrics.ready(not served.trouble()))
    return served


def network(model: Model, settings: Settings, backbone: Backbone | None = None) -> Backbone:
    """Return a network as adapters see it: with the statistics that the configuration asks for.

    Args:
        model: Whose bundle counts.
        settings: The configuration.
        backbone: The network; the model's, as it learns, when None.
    """
    return robust(backbone or model.backbone, **_statistics(model.reference, settings))


def conditions(backbone: Backbone, reference: Reference | None, settings: Settings) -> dict[str, Any]:
    """Return what steps depend on beside their adapter, as the audit log has it."""
    statistics, radius = _statistics(reference, settings), settings.guard.max_distance
    return {"statistics": statistics, "max_distance": radius, "weights": backbone.spec.digest[:16]}


def assemble(
    backbone: Backbone,
    reference: Reference | None,
    adapter: Adapter,
    settings: Settings,
    metrics: Metrics,
    storage: Storage,
    runs: Runs | None = None,
) -> tuple[Worker, Commands]:
    """Return a worker with the streams that `storage` holds, and operators' commands for it.

    Args:
        backbone: The network, as it learns.
        reference: Its bundle.
        adapter: How streams learn that have no settings of their own.
        settings: The configuration.
        metrics: Where to report.
        storage: Where streams are kept.
        runs: What runs it, if that is not always the same.

    Raises:
        ValueError: If the adapter does not fit the network, or a stored state does not fit the adapter.
    """
    answers, steps, compared = runs or Runs(backbone, backbone, backbone)
    space = _space(reference, settings.domains)
    guard = _guards(steps, reference, settings)
    methods = Methods(backbone, reference, adapter, guard)
    if settings.domains.max > 1 and space is None and methods.default.initial:  # else there is nothing to learn
        _say_that_all_is_one(reference)
    source = adapters.create("source")
    shelf = Shelf(storage.keeper, backbone, reference, space)
    ledger = Ledger(settings.streams.recent_bytes)
    journal = Journal(storage.keeper, shelf, None if storage.durable else storage.ring, settings.storage.keep_inputs)
    monitor = Monitor.of(reference, backbone.norm_stats(), settings.drift, settings.engine.window_rows)
    news = News(keep_books, speak, ledger.hear, journal.hear)
    metrics.bundle(reference is not None)
    apart = Apart(len(space.mean) if space else 0, blind=not space and settings.domains.max > 1)
    registry = Registry(methods, settings.streams, _pace(settings.engine), metrics, shelf, news, apart)
    news.listen(Series(metrics, monitor, registry).hear)
    watcher = Watcher(monitor if settings.drift.enabled else None, news.tell, settings.drift.keep_images)
    if not (settings.drift.enabled and (monitor.size or space)):
        _expect_no_wait_for_drift(settings)
    known = conditions(steps, reference, settings)
    policy = Policy(settings.streams.reset_every, settings.guard.freeze_after, settings.streams.when, known)
    sharing = Sharing(answers, settings.engine.stack_rows)
    parts = Parts(
        learns=backbone,
        answers=answers,
        methods=methods,
        registry=registry,
        newcomers=Newcomers(registry, settings.streams, news),
        answerer=Answerer(answers, source, sharing, watcher.yardstick, settings.engine.max_rows),
        router=Router(answers, (space, watcher.yardstick), settings.domains.max, registry, news) if space else None,
        learner=Learner(steps, compared, metrics, news.tell, policy, watcher),
        ledger=ledger,
        news=news,
        watcher=watcher,
        metrics=metrics,
    )
    registry.load(storage.streams)  # once everybody listens
    return Worker(parts), Commands(parts, shelf, storage.store, settings.domains.max if space else 1)


def _statistics(reference: Reference | None, settings: Settings) -> dict[str, Any]:
    """Return the section of the configuration, with the share of the source's statistics that is in force."""
    asked = settings.statistics
    share = measured_share(reference) if asked.source_share is None else asked.source_share
    return {"full_rows": asked.full_rows, "median": asked.median, "source_share": share}


def _space(reference: Reference | None, settings: DomainsSettings) -> StyleSpace | None:
    """Return where styles are compared; None if domains are not to be told apart, or cannot be."""
    if settings.max == 1 or reference is None or PART not in reference.parts:
        return None
    return StyleSpace.of(reference)


def _say_that_all_is_one(reference: Reference | None) -> None:
    """Warn who has domains told apart, and a bundle that cannot do it."""
    why = reference.about.get("left_out", {}).get(PART, "") if reference else ""
    lacking = f"the model's bundle has no style ({why})" if why else "the model has no reference bundle with a style"
    make = "make the bundle with 'tta-server calibrate', or of the next images by POST /v1/calibrate; or "
    log.warning(
        "%s, so that inputs cannot be told apart: streams learn in the shadow, and the frozen model answers; %sset "
        "domains.max to 1 to answer from what is learnt from everything",
        lacking,
        "" if why else make,
    )


def _expect_no_wait_for_drift(settings: Settings) -> None:
    """Raise a ValueError if a stream is to learn while it drifts only, which nobody would see."""
    streams = settings.streams
    names = [name for name in streams.named if streams.when(name) == "drift"]
    if streams.adapt_when == "drift" or names:
        which = "streams.adapt_when" if streams.adapt_when == "drift" else f"streams.named.{names[0]}.adapt_when"
        wrong = "the model has no reference bundle that knows scores without drift; make it with 'tta-server calibrate'"
        wrong = wrong if settings.drift.enabled else "drift.enabled is false"
        raise ValueError(f"{which} is 'drift', but nothing would ever be learnt: {wrong}")


def _guards(backbone: Backbone, reference: Reference | None, settings: Settings) -> Callable[[Adapter], Judge]:
    """Return what makes the guard of a method; all have one bank of canary images."""
    if not settings.guard.enabled:
        return lambda _adapter: Unguarded()
    canary = CanaryImages(reference, backbone.device) if reference and "canary" in reference.parts else None
    return lambda adapter: Guard(backbone, adapter, reference, settings.guard, canary)


def _webhook(settings: WebhooksSettings, metrics: Metrics) -> Webhook | None:
    if not settings.url:
        return None
    return Webhook(settings.url, settings.secret.get_secret_value(), settings.timeout_s, metrics.webhook)


def _room(model: Model, settings: Settings) -> Room:
    image_bytes = math.prod(model.preprocess.input_shape) * np.dtype(np.float32).itemsize
    engine, limits = settings.engine, settings.limits
    if limits.max_decoded_bytes is None:
        return Room(engine.max_queue_rows, (engine.max_queue_rows + engine.max_rows) * image_bytes)
    least = engine.max_rows * image_bytes
    if limits.max_decoded_bytes < least:
        raise ValueError(
            f"limits.max_decoded_bytes is {limits.max_decoded_bytes}, expected at least {least}: "
            f"a request of engine.max_rows, {engine.max_rows}, images would never find room"
        )
    return Room(engine.max_queue_rows, limits.max_decoded_bytes)


def _pace(settings: EngineSettings) -> Pace:
    least = settings.window_min_rows or min(_LEAST_ROWS, settings.window_rows)
    return Pace(settings.window_rows, least, settings.window_min_age_s, settings.window_max_age_s)
