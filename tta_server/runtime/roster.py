"""The models of a server: one that stays, and others that come and go while it runs."""

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, ValuesView
from contextlib import contextmanager
from types import MappingProxyType

from tta_server.errors import Conflict, NotFound
from tta_server.runtime.served import FINISH_S, Served
from tta_server.telemetry.log_format import fields
from tta_server.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

_DRAIN_S = 10.0
_LOOK_EVERY_S = 0.02
_NONE: Mapping[str, Callable[[], Served]] = MappingProxyType({})


class Roster(Mapping[str, Served]):
    """What is loaded, by name; the first answers what names no model, and stays.

    Attributes:
        names: Of all models that the configuration names, loaded or not.
        first: The model that stays.
    """

    def __init__(self, loaded: Mapping[str, Served], makers: Mapping[str, Callable[[], Served]] = _NONE) -> None:
        """Hold models that are made and not started.

        Args:
            loaded: Those that answer from the start on, the first first.
            makers: Make, by name, those that can be loaded and unloaded.
        """
        self._loaded = dict(loaded)  # a change makes another: who reads it needs no lock
        self._makers = makers
        self._changing = threading.Lock()
        self.names = list(dict.fromkeys((*loaded, *makers)))
        self.first = next(iter(loaded.values()))

    def __getitem__(self, name: str) -> Served:
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded)

    def __len__(self) -> int:
        return len(self._loaded)

    def values(self) -> ValuesView[Served]:
        """Return what is loaded now, whatever is loaded or unloaded meanwhile."""
        return self._loaded.values()

    def metrics_of(self, name: str) -> Metrics | None:
        """Return where to count what names a model, or none; None if that is not loaded, for it is no other's."""
        served = self._loaded.get(name) if name else self.first
        return served.metrics if served else None

    def start(self) -> None:
        """Have every model answer; a second time changes nothing.

        Raises:
            ValueError: If one cannot; then none does.
        """
        try:
            for each in self.values():
                each.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all models, side by side: one that hangs takes no time from another.

        One that is being unloaded is waited for; one that is being loaded for no longer than any takes to stop, for it
        has nothing to lose.
        """
        end_s = time.monotonic() + FINISH_S
        stopped = [*self.values()]
        _stop_side_by_side(stopped)
        if self._changing.acquire(timeout=max(0.0, end_s - time.monotonic())):
            try:
                for each in self.values():
                    if each not in stopped:  # it was loaded meanwhile
                        each.stop()
            finally:
                self._changing.release()

    @property
    def lost(self) -> bool:
        """Whether anything of what should outlive the process could not be written, once all are stopped."""
        return any(each.storage.durable and each.storage.keeper.lacking for each in self.values())

    def load(self, name: str) -> None:
        """Have a model answer from now on; one that does already stays as it is. Takes as long as loading does.

        Raises:
            NotFound: If the configuration names no such model.
            Conflict: If it cannot be loaded, or another one is being loaded or unloaded.
        """
        with self._change(name):
            if name in self._loaded:
                return
            try:
                served = self._makers[name]()
                try:
                    served.start()
                except BaseException:
                    served.stop()
                    raise
            except ValueError as error:
                raise Conflict(f"model '{name}' cannot be loaded: {error}") from error
            self._loaded = self._loaded | {name: served}
            log.info("model loaded", extra=fields(model=name))

    def unload(self, name: str) -> None:
        """Take no more requests for a model, answer those that it has, keep what it has learnt, and free its memory.

        Raises:
            NotFound: If the configuration names no such model.
            Conflict: If the model is the one that stays, or another one is being loaded or unloaded.
        """
        with self._change(name):
            if name not in self._makers:
                raise Conflict(f"model '{name}' answers what names no model, and stays; stop the server to unload it")
            if name not in self._loaded:
                return
            served = self._loaded[name]
            self._loaded = {other: each for other, each in self._loaded.items() if other != name}
            until_s = time.monotonic() + _DRAIN_S
            while served.engine.is_occupied and time.monotonic() < until_s:
                time.sleep(_LOOK_EVERY_S)
            served.stop(f"model '{name}' was unloaded")
            del served
            gc.unfreeze()  # what was there at the start was put out of the collector's reach
            gc.collect()
            gc.freeze()
            log.info("model unloaded", extra=fields(model=name))

    @contextmanager
    def _change(self, name: str) -> Iterator[None]:
        if name not in self.names:
            raise NotFound(f"unknown model '{name[:80]}'; POST /v2/repository/index lists those of the configuration")
        if not self._changing.acquire(blocking=False):
            raise Conflict("another model is being loaded or unloaded; try again when that is done")
        try:
            yield
        finally:
            self._changing.release()


def _stop_side_by_side(models: Sequence[Served]) -> None:
    """Stop models, all but the first in threads; one for which the system has no thread is stopped here."""
    first, *others = models
    begun = []
    for each in others:
        thread = threading.Thread(target=each.stop, name="stop")
        try:
            thread.start()
        except RuntimeError:
            each.stop()
        else:
            begun.append(thread)
    first.stop()
    for thread in begun:
        thread.join()
