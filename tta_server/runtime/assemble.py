"""Put a worker together from its parts."""

from functools import partial
from typing import NamedTuple

from tta_server import adapters
from tta_server.adapters import Adapter
from tta_server.guard.guard import Guard
from tta_server.guard.judge import Judge, Unguarded
from tta_server.models import Backbone, Reference
from tta_server.runtime.answerer import Answerer
from tta_server.runtime.commands import Commands
from tta_server.runtime.learner import Learner, Policy
from tta_server.runtime.sharing import Sharing
from tta_server.runtime.worker import Parts, Worker
from tta_server.settings import EngineSettings, GuardSettings, Settings
from tta_server.storage.audit import Audit
from tta_server.storage.keeper import Keeper
from tta_server.storage.store import Store
from tta_server.streams.event import News, keep_books
from tta_server.streams.journal import Journal
from tta_server.streams.ledger import Ledger
from tta_server.streams.methods import Methods
from tta_server.streams.registry import Registry
from tta_server.streams.schedule import Pace
from tta_server.streams.series import Series
from tta_server.streams.shelf import Shelf
from tta_server.telemetry.metrics import Metrics

_LEAST_ROWS = 16


class Kept(NamedTuple):
    """Where things are kept.

    Attributes:
        store: Files.
        audit: The log of what happened to streams.
        keeper: The thread that writes both.
        durable: Whether they outlive the process.
    """

    store: Store
    audit: Audit
    keeper: Keeper
    durable: bool


def assemble(
    backbone: Backbone, reference: Reference | None, adapter: Adapter, settings: Settings, metrics: Metrics, kept: Kept
) -> tuple[Worker, Commands]:
    """Return a worker with the streams that `kept` holds, and operators' commands for it.

    Raises:
        ValueError: If the adapter does not fit the network, or a stored state does not fit the adapter.
    """
    guard = partial(_guard, backbone, reference, settings.guard, settings.engine.window_rows)
    methods = Methods(backbone, reference, adapter, guard)
    source = adapters.create("source")
    shelf = Shelf(kept.keeper, backbone, reference)
    ledger = Ledger(settings.streams.recent_bytes)
    journal = Journal(kept.keeper, shelf, kept.durable, settings.storage.keep_inputs)
    news = News(keep_books, Series(metrics).hear, ledger.hear, journal.hear)
    registry = Registry(methods, settings.streams, _pace(settings.engine), metrics, shelf, news)
    registry.load(kept.store.names())
    policy = Policy(settings.streams.reset_every, settings.guard.freeze_after)
    parts = Parts(
        backbone=backbone,
        source=source,
        methods=methods,
        registry=registry,
        answerer=Answerer(backbone, source, Sharing(settings.engine.stack_rows)),
        learner=Learner(backbone, source, metrics, news.tell, policy),
        ledger=ledger,
        news=news,
        stack_rows=settings.engine.stack_rows,
        metrics=metrics,
    )
    return Worker(parts), Commands(parts, shelf, kept.store)


def _guard(
    backbone: Backbone, reference: Reference | None, settings: GuardSettings, window_rows: int, adapter: Adapter
) -> Judge:
    return Guard(backbone, adapter, reference, settings, window_rows) if settings.enabled else Unguarded()


def _pace(settings: EngineSettings) -> Pace:
    least = settings.window_min_rows or min(_LEAST_ROWS, settings.window_rows)
    return Pace(settings.window_rows, least, settings.window_min_age_s, settings.window_max_age_s)
