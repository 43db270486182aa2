"""What the Open Inference Protocol's extensions answer, for the OpenAPI document."""

from pydantic import Field

from tta_server.api.front.document import Told


class ConfigInput(Told):
    """An input, of one image."""

    name: str
    data_type: str
    dims: list[int]
    optional: bool


class ConfigOutput(Told):
    """An output, of one image."""

    name: str
    data_type: str
    dims: list[int]


class Unset(Told):
    """An object without keys."""


class ModelConfig(Told):
    """A model as Triton describes one."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfigInput]
    output: list[ConfigOutput]
    dynamic_batching: Unset


class Duration(Told):
    """How often something happened, and how long it took in all."""

    count: int
    ns: int


class InferenceStats(Told):
    """Requests that were answered or not, and where the time went."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration = Field(description="Decoding, for each request.")
    compute_infer: Duration = Field(description="Forwards of the network, for each batch.")
    compute_output: Duration = Field(description="0: not measured.")
    cache_hit: Duration
    cache_miss: Duration


class ModelStatistics(Told):
    """What one model has done since the start."""

    name: str
    version: str
    last_inference: int = Field(
        description="When a request was answered last, in milliseconds since 1970; 0 if none was."
    )
    inference_count: int = Field(description="Images that went through the network.")
    execution_count: int = Field(description="Forwards.")
    inference_stats: InferenceStats
    batch_stats: list[Unset]
    memory_usage: list[Unset]


class ServerStatistics(Told):
    """What the models have done since the start."""

    model_stats: list[ModelStatistics]


class IndexEntry(Told):
    """A model of the repository."""

    name: str
    version: str
    state: str
    reason: str


class Loaded(Told):
    """The model answers."""

    name: str
    load: bool


class Unloaded(Told):
    """The model does not answer any more."""

    name: str
    unload: bool
