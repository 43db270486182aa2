"""A classifier in a TorchScript file or an exported program of torch: it answers, and nothing in it is moved."""

import hashlib
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from tta_server.models.head import LastLayer
from tta_server.models.logits import tensors_in
from tta_server.models.origin import IMAGENET, Origin, own_weights
from tta_server.models.own_state import OwnStateError
from tta_server.models.reason import reason

SUFFIXES = (".pt", ".pt2")

_PASSED = {"aten.log_softmax.int", "aten.softmax.int", "aten.to.dtype"}  # between the last layer and the output
_HEADS = {"aten.linear.default": 0, "aten.addmm.default": 1, "aten.mm.default": 0}  # which argument are the features

# What an exported program says of images of another shape.
_GUARD = re.compile(r"(?:Guard failed|Expected input).*?(?:size\(\)|shape)\[([0-3])\]")
# Of the largest number: the same images twice, on a GPU that may add in another order.
_SAME, _SAME_ON_GPU = 1e-5, 1e-2
_BY_CHANCE = (
    "the file was saved in training mode, or draws random numbers, so that it answers the same images differently each "
    "time: call .eval() before saving"
)
_DYNAMIC = "export it with a dynamic number of images, such as dynamic_shapes=({0: torch.export.Dim('images')},)"
_SIZE = "set model.preprocess to images of the shape that it was exported for"


class TorchFileModule(nn.Module):
    """A program as a module from images to what it returns, with a layer `head` where its features are seen.

    Its weights are not the module's: nothing overrides them.
    """

    def __init__(self, program: nn.Module, sha: bytes, features: bool) -> None:
        """Take a program.

        Args:
            program: What runs, frozen.
            sha: Digest of the file, which is the model's.
            features: Whether it returns its features beside its logits.
        """
        super().__init__()
        self._program = _Program(program)
        self._sha = sha
        self._features = features
        self.register_buffer("sha256", torch.tensor(list(sha), dtype=torch.uint8))
        self.head = LastLayer()

    def __deepcopy__(self, memo: dict[int, Any]) -> "TorchFileModule":
        return TorchFileModule(self._program.module, self._sha, self._features)

    def forward(self, x: Tensor) -> Any:  # noqa: ANN401
        """Return what the program makes of normalised images (N, C, H, W).

        Raises:
            ValueError: If the program was saved in training mode, so that answers change it or are left to chance, or
                fails where the graph of an exported one names a device that its images are not on, or it is for other
                images.
        """
        try:
            made = self._program(x)
        except (RuntimeError, AssertionError) as error:
            if remedy := _remedy(error):
                raise ValueError(f"the file was exported for other images ({reason(error, 200)}): {remedy}") from error
            raise
        return self.head(*made) if self._features else made


class _Program:
    """What runs, frozen; not a module, so that it is no part of one."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        floats = [*(p for p in module.parameters() if p.is_floating_point())]
        self._type = floats[0].dtype if floats else None
        self._most = 0  # images that it has been tried with

    def __call__(self, x: Tensor) -> Any:  # noqa: ANN401
        module = self.module.to(x.device)
        x = x.to(self._type) if self._type else x
        rows = x.shape[0]
        if isinstance(rows, torch.SymInt) or rows <= self._most:  # any number, to an exporter
            return module(x)
        made = self._tried(module, x)
        self._most = rows
        return made

    def _tried(self, module: nn.Module, x: Tensor) -> Any:  # noqa: ANN401
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        try:
            made, again = module(x), module(x)
        except (RuntimeError, AssertionError) as error:
            if not _remedy(error) and (others := ", ".join(sorted(_devices(module) - {x.device.type}))):
                raise ValueError(
                    f"the file names the device '{others}' in its graph, and fails on '{x.device}' "
                    f"({reason(error, 200)}): export it on that device, or set model.device to the one it was exported "
                    "on"
                ) from error
            raise
        if any(not torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items()):
            raise OwnStateError(
                "the file was saved in training mode, or keeps something of what it is asked, so that answers change "
                "it: call .eval() before saving"
            )
        pairs = zip(tensors_in(made), tensors_in(again), strict=True)
        if any(not _same(one, other) for (_, one), (_, other) in pairs):
            raise OwnStateError(_BY_CHANCE)
        return made


def _same(one: Tensor, other: Tensor) -> bool:
    share = _SAME_ON_GPU if one.is_cuda else _SAME
    return torch.allclose(one, other, rtol=0.0, atol=share * float(one.abs().max()), equal_nan=True)


def torch_file_source(path: Path) -> Origin:
    """Return the classifier in a file of `torch.jit.save` (.pt) or `torch.export.save` (.pt2), with its weights.

    Raises:
        ValueError: If the file is missing, damaged or holds something else.
    """
    if not path.is_file():
        raise ValueError(f"model file '{path}' does not exist")
    script = path.suffix == ".pt"
    features = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is not developed any more; its files are there
            if script:
                program = torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]
            else:
                program = torch.export.load(path).module()
                features = _with_features(program)
    except Exception as error:  # damage may lead to anything
        wanted = "of torch.jit.save (a state_dict is given by --weights)" if script else "of torch.export.save"
        kinds = "a damaged one" if script else "a damaged one, or one for a device that is not here"
        raise ValueError(f"'{path}' is no file {wanted}, or {kinds}: {reason(error, 200)}") from error
    if _drops(program):
        raise ValueError(f"'{path}' cannot be served: {_BY_CHANCE}")
    for parameter in program.parameters():
        parameter.requires_grad_(False)
    sha = hashlib.sha256(path.read_bytes()).digest()

    def ready() -> nn.Module:
        return TorchFileModule(program, sha, features)

    return Origin(
        own_weights(path),
        IMAGENET,
        path,
        ready=ready,
        head="head" if features else "",
    )


def _remedy(error: Exception) -> str:
    """Return what helps where an exported program refuses the shape of images; empty if it is not that."""
    found = _GUARD.match(str(error))
    return "" if not found else _SIZE if int(found[1]) else _DYNAMIC


def _devices(program: nn.Module) -> set[str]:
    """Return the kinds of devices that the graph of an exported program names; nothing moves them with its weights."""
    graphs = (module.graph for module in program.modules() if isinstance(module, fx.GraphModule))
    values = (value for graph in graphs for node in graph.nodes for value in (*node.args, *node.kwargs.values()))
    return {value.type for value in values if isinstance(value, torch.device)}


def _drops(program: nn.Module) -> bool:
    """Return whether a dropout of training is in the graph of a program."""
    if isinstance(program, fx.GraphModule):
        return any("dropout" in str(node.target) and _dropped(node.args) for node in program.graph.nodes)
    try:
        graph: Any = program.inlined_graph  # to be held while its nodes are
    except RuntimeError:  # a script may have no graph to look into
        return False
    nodes = graph.findAllNodes("aten::dropout")
    return any(_dropped([given.toIValue() for given in node.inputs()]) for node in nodes)


def _dropped(given: Sequence[Any]) -> bool:
    """Return whether a dropout that is given an input, a probability and whether it is training drops anything."""
    return len(given) > 2 and given[2] is True and given[1] != 0


def _with_features(program: nn.Module) -> bool:
    """Have a program return the input of its last linear layer, too; false if it is not seen to."""
    if not isinstance(program, fx.GraphModule):
        return False
    output = next(node for node in program.graph.nodes if node.op == "output")
    made = output.args[0]
    logits = made[0] if isinstance(made, tuple) and len(made) == 1 else None
    node = logits
    while isinstance(node, fx.Node) and str(node.target) in _PASSED:
        node = node.args[0]
    if not isinstance(node, fx.Node) or str(node.target) not in _HEADS:
        return False
    features = node.args[_HEADS[str(node.target)]]
    output.args = ((features, logits),)
    # What gives the outputs their structure back knows of one only.
    program.graph.set_codegen(fx.graph.CodeGen())
    program.recompile()
    return True
