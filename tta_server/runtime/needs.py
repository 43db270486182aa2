"""What memory a step needs and what the process may have: said at the start, where the system would end it later.

A step keeps what its forward has computed until the gradient is taken: of 64 photographs of 224 pixels 5 GiB and more.
"""

import logging
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from tta_server.adapters import Adapter, State
from tta_server.models import Backbone
from tta_server.models.backbone import random_images
from tta_server.models.reason import reason

log = logging.getLogger(__name__)

_TRIED = 3
_GIB = 2**30
_FEWEST = 2  # images of a window
_SAFE = 0.7  # of what is left: a step takes more than it keeps
_UNLIMITED = 2**60  # what version 1 of control groups says where there is no limit


class _Kept:
    """A tensor that a gradient needs, until nobody does."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def step_bytes(adapter: Adapter, backbone: Backbone, state: State) -> float:
    """Return what a step keeps of each image until its gradient is taken; 0 if it takes none, or none of so few.

    It is what three images take more than two. While a step computes it takes a tenth or two more; what an adapter does
    without a gradient, such as a teacher's many forwards, is not in it.

    Raises:
        Exception: Whatever the step raises.
    """
    x = random_images(backbone, _TRIED)
    fewer, more = (_kept_bytes(adapter, backbone, state, x[:rows]) for rows in (_TRIED - 1, _TRIED))
    return max(0, more - fewer)


def _kept_bytes(adapter: Adapter, backbone: Backbone, state: State, x: Tensor) -> int:
    live: Counter[int] = Counter()
    sizes: dict[int, int] = {}
    most = 0

    def keep(tensor: Tensor) -> _Kept:
        nonlocal most
        storage = tensor.untyped_storage()
        at = storage.data_ptr()
        live[at] += 1
        sizes[at] = storage.nbytes()
        most = max(most, sum(sizes[each] for each in live))
        kept = _Kept(tensor)
        weakref.finalize(kept, leave, at)
        return kept

    def leave(at: int) -> None:
        live[at] -= 1
        if not live[at]:
            del live[at]

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
        adapter.adapt(backbone, state, x)
    return most


def expect_room(adapter: Adapter, backbone: Backbone, state: State, rows: int) -> None:
    """Do nothing if a step on so many images can be taken and, on a CPU, has room beside what the process has already.

    Raises:
        ValueError: If the network and the adapter are not for each other, or not even what a step keeps has room.
    """
    try:
        each = step_bytes(adapter, backbone, state)
    except Exception as error:  # an adapter may be anybody's
        log.debug("what a step of '%s' keeps is not known: %s", adapter.name, error)
        _expect_step(adapter, backbone, state, rows)
        return
    left = memory_left() if backbone.device.type == "cpu" else None
    if left is not None and each * rows > left:
        raise ValueError(
            f"a step of '{adapter.name}' on {rows} images keeps about {each * rows / _GIB:.1f} GiB, and there are "
            f"{left / _GIB:.1f} GiB left; give the server more memory, or {_less(int(left / each * _SAFE))}"
        )


def _expect_step(adapter: Adapter, backbone: Backbone, state: State, rows: int) -> None:
    """Take a step on a whole window, where a few images are too few for one."""
    try:
        adapter.adapt(backbone, state, random_images(backbone, rows))
    except Exception as error:  # whatever a network and a method make of each other
        raise ValueError(
            f"adapter '{adapter.name}' cannot learn on backbone '{backbone.spec.name}': {reason(error)}; 'tta-server "
            "inspect' lists those that can"
        ) from error


def _less(rows: int) -> str:
    return (
        f"set engine.window_rows and engine.stack_rows to at most {rows}"
        if rows >= _FEWEST
        else "take adapter 'source'"
    )


def memory_left(root: Path = Path("/")) -> int | None:
    """Return how many bytes this process may take beside what it has: of the machine's, and of its control groups'.

    Args:
        root: Where `proc` and `sys` are.

    Returns:
        None where neither says, as on systems that are not Linux.
    """
    return min((*_of_machine(root), *_of_groups(root)), default=None)


def _of_machine(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _of_groups(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / ("sys/fs/cgroup/memory" if controllers else "sys/fs/cgroup")
        names = ("limit_in_bytes", "usage_in_bytes") if controllers else ("max", "current")
        group = top / path.lstrip("/")
        for folder in (
            group,
            *group.parents,
        ):  # a limit holds for all that is below; a container sees its own as the top
            limit, usage = (next(_lines(folder / f"memory.{name}"), "") for name in names)
            if limit.isdigit() and usage.isdigit() and int(limit) < _UNLIMITED:
                yield max(0, int(limit) - int(usage) + _reclaimable(folder))
            if folder == top:
                break


def _reclaimable(folder: Path) -> int:
    """Return what of a group's memory are copies of files."""
    stats = dict(line.split(" ", 1) for line in _lines(folder / "memory.stat"))
    return sum(int(stats.get(f"total_{kind}", stats.get(kind, "0"))) for kind in ("active_file", "inactive_file"))


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from path.read_text().splitlines()
    except OSError:
        return
