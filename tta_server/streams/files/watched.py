"""How a stream's input drifts, as a file has it: numbers in its record, arrays beside."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tta_server.drift.watch import Watch
from tta_server.models import Tensors
from tta_server.streams.files.stored import StoredDrift
from tta_server.telemetry.closed_sets import DRIFT_SCORES, DRIFT_STATES

_BESIDE = "drift/"
_KNOWN = {str(name): name for name in DRIFT_SCORES}


def stored_drift(watch: Watch) -> StoredDrift:
    """Return what the record of a stream says of its drift."""
    return StoredDrift(**_same(watch))


def arrays_of(watch: Watch) -> Tensors:
    """Return what lies beside; nothing of a stream that nobody watched."""
    arrays = {"waiting": watch.waiting, "windows": watch.windows, "shares": watch.shares.astype(np.float64)}
    return {f"{_BESIDE}{name}": torch.from_numpy(array) for name, array in arrays.items() if array.size}


def watch_of(stored: StoredDrift, beside: Tensors) -> Watch:
    """Return what a file says; an array that is damaged or missing is as that of a fresh stream.

    Scores that this server does not know are left out, and windows with a state that it does not know.
    """
    fresh = Watch()
    names = tuple(_KNOWN[name] for name in stored.names if name in _KNOWN)
    windows = _array("windows", beside, (3 + len(stored.names),))
    if windows is not None:
        windows = windows[np.isin(windows[:, 2], range(len(DRIFT_STATES)))]
        windows = windows[:, [True] * 3 + [name in _KNOWN for name in stored.names]]
    waiting, shares = _array("waiting", beside, (fresh.waiting.shape[1],)), _array("shares", beside, ())
    return replace(
        fresh,
        **_same(stored) | {"names": () if windows is None else names},
        waiting=fresh.waiting if waiting is None else waiting,
        windows=fresh.windows if windows is None else windows,
        shares=fresh.shares if shares is None else shares.astype(np.float32),
    )


def _same(drift: Watch | StoredDrift) -> dict[str, Any]:
    """Return what both hold alike."""
    return {field.name: getattr(drift, field.name) for field in fields(StoredDrift)}


def _array(name: str, beside: Tensors, row: tuple[int, ...]) -> npt.NDArray[np.float64] | None:
    """Return an array whose rows have that shape, if there is a sound one."""
    found = beside.get(f"{_BESIDE}{name}")
    if found is None or tuple(found.shape[1:]) != row or not found.dim() or not found.isfinite().all():
        return None
    return found.cpu().double().numpy()
