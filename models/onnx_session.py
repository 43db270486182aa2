"""ONNX Runtime on torch's tensors: what is read and written stays on their device."""

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tta_server.models.reason import reason

ELEMENTS = {torch.float32: np.float32, torch.float64: np.float64, torch.float16: np.float16, torch.int64: np.int64}
"""Types of tensors that a graph may take or make."""

# From 1.29 on it tells its makers of each process, machine and model unless the environment says not to before it is
# imported, by whomever: so this stands here, and not where it is used.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"


def library(name: str) -> Any:  # noqa: ANN401
    """Return a package that not everybody has.

    Raises:
        ValueError: If it is not installed; the message says what to install.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"ONNX needs {name}; install tta-server[onnx], or tta-server[onnx-gpu] for CUDA (one of them, never both)"
        ) from error


class OnnxSession:
    """A graph that is ready to run.

    Attributes:
        threads: That compute, as many as torch had when it was made.
    """

    def __init__(self, graph: bytes, device: torch.device) -> None:
        """Load a graph.

        Args:
            graph: The ONNX file's content.
            device: Where it runs, and where its inputs are and its outputs will be.

        Raises:
            ValueError: If ONNX Runtime is not installed, refuses the graph, or cannot use the device.
        """
        runtime = library("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # torch has work for the cores, too
        options.log_severity_level = 3  # errors are raised
        options.enable_cpu_mem_arena = False  # each graph would keep what its largest batch has ever taken
        options.enable_mem_pattern = False  # nor a block for each number of rows
        index = device.index or 0
        providers = [(_CUDA, {"device_id": index}), _CPU] if device.type == "cuda" else [_CPU]
        try:
            self._session = runtime.InferenceSession(graph, options, providers=providers)
        except Exception as error:  # classes of its own, which derive from nothing but Exception
            raise ValueError(f"ONNX Runtime refuses the graph: {reason(error, 300)}") from error
        self._session._model_bytes = None  # the file, kept for other providers: as much again as the weights
        self.device = device
        self.providers: list[str] = self._session.get_providers()
        self.about = f"ONNX Runtime {runtime.__version__}, {self.providers[0]}"
        if device.type == "cuda" and _CUDA not in self.providers:  # it says so in its log only, and takes the CPU
            raise ValueError(
                f"ONNX Runtime cannot use device '{device}': it has {', '.join(self.providers)}; install "
                "tta-server[onnx-gpu] and the CUDA version that it is made for, or set model.device to cpu"
            )

    def run(self, feeds: Mapping[str, Tensor], made: Sequence[str]) -> list[Tensor]:
        """Return some outputs of the graph.

        Args:
            feeds: Its inputs by name; those that are not here have the values that the graph holds.
            made: Names of the outputs that are wanted.
        """
        kind, index = self.device.type, self.device.index or 0
        held = [tensor.detach().contiguous() for tensor in feeds.values()]
        if kind == "cpu":  # where binding costs as much as a small network
            arrays = {name: tensor.numpy() for name, tensor in zip(feeds, held, strict=True)}
            return [torch.from_numpy(output) for output in self._session.run(list(made), arrays)]
        binding = self._session.io_binding()
        for name, tensor in zip(feeds, held, strict=True):
            binding.bind_input(name, kind, index, ELEMENTS[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())
        for name in made:
            binding.bind_output(name, kind, index)
        if kind == "cuda":  # ONNX Runtime has a stream of its own
            torch.cuda.current_stream(self.device).synchronize()
        self._session.run_with_iobinding(binding)
        return [torch.from_numpy(output.numpy()).to(self.device) for output in binding.get_outputs()]
