"""The messages and services of gRPC, from what `protoc` makes of the .proto files beside this.

They live in a pool of their own: a process that holds another client's messages of the same names has room for both.
"""

from importlib.resources import files
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

INFERENCE: Final = "inference.GRPCInferenceService"
"""The Open Inference Protocol's service."""
HEALTH: Final = "grpc.health.v1.Health"
"""The service that probes ask."""
DESCRIPTORS: Final = "descriptors.binpb"
"""What `python -m grpc_tools.protoc -I. --descriptor_set_out=descriptors.binpb inference.proto health.proto` writes."""

_POOL = DescriptorPool()
for _file in FileDescriptorSet.FromString(files(__package__).joinpath(DESCRIPTORS).read_bytes()).file:
    _POOL.AddSerializedFile(_file.SerializeToString())


def message(name: str) -> Any:
    """Return the class of a message by its full name."""
    return GetMessageClass(_POOL.FindMessageTypeByName(name))


def methods(service: str) -> dict[str, tuple[Any, Any]]:
    """Return the methods of a service by name, each with the classes of its request and its answer."""
    found = _POOL.FindServiceByName(service).methods
    return {each.name: (message(each.input_type.full_name), message(each.output_type.full_name)) for each in found}
