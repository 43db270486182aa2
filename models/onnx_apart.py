"""Export a network in a process of its own, whose end gives back what torch's exporter loads and keeps.

    python -m tta_server.models.onnx_apart < network > graphs

That is some 200 MiB, which a server would hold for as long as it runs.
"""

import io
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import torch

from tta_server.models.onnx_export import graphs
from tta_server.models.onnx_graphs import Graphs
from tta_server.models.reason import reason
from tta_server.models.torch_backbone import TorchBackbone

log = logging.getLogger(__name__)

_LOCK = type(threading.Lock())


def graphs_apart(backbone: TorchBackbone, layers: Sequence[str] = ()) -> Graphs:
    """Return what `graphs` does, made by another process; by this one where the network cannot be sent there.

    Raises:
        ValueError: If a package is missing, or the network cannot be exported; the message says why.
    """
    try:
        made = _made_apart(backbone, layers)
    except Exception as error:  # a network may hold anything, and may have been defined where no other process sees it
        log.info("network '%s' is exported in this process, which keeps memory: %s", backbone.spec.name, reason(error))
        return graphs(backbone, layers)
    if isinstance(made, str):
        raise ValueError(made)
    return made


def _made_apart(backbone: TorchBackbone, layers: Sequence[str]) -> Graphs | str:
    """Return the graphs, or why there are none."""
    packed = io.BytesIO()
    _Packer(packed).dump((torch.get_num_threads(), backbone, tuple(layers)))
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", __name__],
        input=packed.getbuffer(),
        capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise RuntimeError(f"the other process ended with {done.returncode}: {last}")
    made: Graphs | str = pickle.loads(done.stdout)  # noqa: S301
    return made


class _Packer(pickle.Pickler):
    """Packs locks, too: each is another one on the other side."""

    def reducer_override(self, thing: object) -> Any:  # noqa: ANN401
        """Return how to make what cannot be packed."""
        return (threading.Lock, ()) if isinstance(thing, _LOCK) else NotImplemented


def _main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed does not go between the graphs
    threads, backbone, layers = pickle.load(sys.stdin.buffer)  # noqa: S301
    torch.set_num_threads(threads)
    made: Graphs | str
    try:
        made = graphs(backbone, layers)
    except ValueError as error:
        made = str(error)
    with out:
        pickle.dump(made, out)


if __name__ == "__main__":
    _main()
