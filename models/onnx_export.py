"""A frozen network as ONNX graphs: one whose normalisation layers are inputs, and the source alone."""

import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tta_server.models.backbone import Tensors, random_images, replaceable
from tta_server.models.onnx_graphs import Graphs, by_content, serialised, without_weights
from tta_server.models.onnx_session import library
from tta_server.models.preprocess import Preprocess
from tta_server.models.reason import reason
from tta_server.models.torch_backbone import TorchBackbone

IMAGES, LOGITS, FEATURES, STYLE = "images", "logits", "features", "style"
"""Names of the input and of the outputs."""

OPSET = 20
KEY = "tta_server"
"""Under which a file's metadata hold what this server knows of it, as JSON."""

_TALKATIVE = "torch.onnx", "torch.export", "torch.fx.experimental.symbolic_shapes", "onnxscript", "onnx_ir"


def graphs(backbone: TorchBackbone, layers: Sequence[str] = ()) -> Graphs:
    """Return the graphs that answer for a network; see `export`."""
    model = export(backbone, layers)
    known = by_content(backbone)
    source, streams = (without_weights(cut, known) for cut in (source_only(model), streams_only(model)))
    styles = without_weights(styles_only(model), known) if layers else None
    return Graphs(source, streams, styles, tuple(layers))


def export(backbone: TorchBackbone, layers: Sequence[str] = ()) -> Any:  # noqa: ANN401
    """Return the network as an ONNX model: images in, logits and features out.

    Scales, shifts and statistics of the normalisation layers are inputs by their names in the state dict; an input that
    is not fed has the source's value.

    Args:
        backbone: The network.
        layers: Normalisation layers whose style is an output too.

    Raises:
        ValueError: If a package is missing, or the network cannot be exported; the message says why.
    """
    for needed in ("onnxscript", "onnxruntime"):  # by torch's exporter, which does not say so
        library(needed)
    onnx = library("onnx")
    _check(backbone)
    overrides = replaceable(backbone)
    outputs = [LOGITS, FEATURES, *([STYLE] if layers else [])]
    x = random_images(backbone, 2)
    shapes = {"x": {0: torch.export.Dim("rows", min=1)}, "overrides": dict.fromkeys(overrides)}
    try:
        with backbone.traced(layers) as network, _quiet(), torch.no_grad():
            program = torch.onnx.export(
                network,
                (),
                kwargs={"x": x, "overrides": dict(overrides)},
                dynamic_shapes=shapes,
                input_names=[IMAGES, *overrides],
                output_names=outputs,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        model = program.model_proto if program else None
    except Exception as error:  # whatever the exporter does not know
        said = reason(error.__cause__ if isinstance(error.__cause__, Exception) else error, 300)
        for inner in (" See the stack trace", " (Size-like", " : [num_users"):
            said = said.partition(inner)[0]
        name = backbone.spec.name
        raise ValueError(f"network '{name}' cannot be exported to ONNX: {said}; use runtime torch") from error
    _forget(model)
    _hold(onnx, model, overrides)
    return model


def source_only(model: Any) -> Any:  # noqa: ANN401
    """Return a model whose normalisation layers are constants, so that whoever loads it folds them away."""
    alone = type(model)()
    alone.CopyFrom(model)
    del alone.graph.input[1:]
    return alone


def styles_only(model: Any) -> Any:  # noqa: ANN401
    """Return a model of the source that ends where styles are known: whoever loads a graph runs every node of it."""
    return library("onnx.utils").Extractor(source_only(model)).extract_model([IMAGES], [STYLE])


def streams_only(model: Any) -> Any:  # noqa: ANN401
    """Return a model without styles, which are the source's."""
    alone = type(model)()
    alone.CopyFrom(model)
    del alone.graph.output[2:]
    return alone


def write(backbone: TorchBackbone, preprocess: Preprocess, labels: Sequence[str], folder: Path) -> list[Path]:
    """Export a network to `source.onnx` and `streams.onnx`, and say in `export.json` what they are.

    Args:
        backbone: The network.
        preprocess: From decoded images to its input.
        labels: Names of its classes.
        folder: Is made if it is not there; files of these names are overwritten.

    Returns:
        The files.

    Raises:
        ValueError: If that is not possible.
    """
    model = export(backbone)
    own = asdict(preprocess) | {"mean": None, "std": None}  # the graph subtracts and divides itself
    about = {
        "name": backbone.spec.name,
        "digest": backbone.spec.digest,
        "opset": OPSET,
        "input_shape": list(backbone.spec.input_shape),
        "inputs": {name: list(tensor.shape) for name, tensor in replaceable(backbone).items()},
        "outputs": {LOGITS: backbone.spec.classes, FEATURES: backbone.spec.features},
        "preprocess": own,
        "labels": list(labels),
    }
    model.metadata_props.add(key=KEY, value=json.dumps(about))
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "source.onnx": serialised(source_only(model)),
        "streams.onnx": serialised(model),
        "export.json": json.dumps(about, indent=1).encode(),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


def _check(backbone: TorchBackbone) -> None:
    remarks = backbone.findings.remarks
    if not backbone.findings.repeats:
        raise ValueError(f"network '{backbone.spec.name}' cannot be exported to ONNX: it answers differently each time")
    for subject in ("buffers", "single images"):
        if subject in remarks:
            raise ValueError(f"network '{backbone.spec.name}' cannot be exported to ONNX: {subject} {remarks[subject]}")
    types = {tensor.dtype for tensor in backbone.weights().values()}
    if types - {torch.float32}:
        raise ValueError(f"network '{backbone.spec.name}' cannot be exported to ONNX: it is not all of float32")


def _forget(model: Any) -> None:  # noqa: ANN401
    """Remove where the exporter found each step: lines of source code, and paths of this machine."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]


def _hold(onnx: Any, model: Any, defaults: Tensors) -> None:  # noqa: ANN401
    """Give inputs the values that they have when they are not fed."""
    names = {given.name for given in model.graph.input}
    for name, tensor in defaults.items():
        if name not in names:
            raise ValueError(f"the exported graph lost its input '{name}'")
        model.graph.initializer.append(onnx.numpy_helper.from_array(tensor.detach().cpu().numpy(), name))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what the exporter says of its own workings."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
