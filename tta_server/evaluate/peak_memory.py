"""How much memory a stretch of work takes at most."""

import gc
import re
from pathlib import Path
from types import TracebackType

import torch

from tta_server.runtime.memory import hand_back

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc_pid_clear_refs(5)


class PeakMemory:
    """Measure the work inside a `with` block.

    Attributes:
        bytes: On a GPU the most that tensors took, the network included; on Linux by how much the resident set grew at
            most; None elsewhere, and until the block ends.
    """

    def __init__(self, device: torch.device) -> None:
        """Measure on `device`."""
        self._device = device
        self._start: int | None = None
        self.bytes: int | None = None

    def __enter__(self) -> "PeakMemory":
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._start = _reset_peak()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device)
        elif self._start is not None:
            self.bytes = max(_status("VmHWM") - self._start, 0)


def _reset_peak() -> int | None:
    """Forget the peak, and return the resident set in bytes, if the system lets us."""
    hand_back()  # what earlier work freed and the allocator kept would hide what this work needs
    try:
        _CLEAR.write_text(_RESET_PEAK)
        return _status("VmRSS")
    except (OSError, ValueError):
        return None


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{_STATUS} has no {name}")
    return 1024 * int(found[1])
