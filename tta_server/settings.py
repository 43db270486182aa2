"""The configuration: one YAML file, environment variables on top, command-line options above both."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from tta_server import adapters
from tta_server.models import Preprocess

PREFIX = "TTA_"
_FILE_VARIABLE = "TTA_CONFIG"
# Names of dots alone are no path segments: clients resolve them away.
STREAM_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,64}")

# A bare `off` is a boolean in YAML 1.1, and the most natural way to write this mode.
Mode = Annotated[
    Literal["after", "inline", "shadow", "off"], BeforeValidator(lambda value: "off" if value is False else value)
]


def _stream_name(name: str) -> str:
    if not STREAM_NAME.fullmatch(name):
        raise ValueError(f"stream name '{name}' must be 1 to 64 letters, digits, '.', '_' or '-'")
    return name


StreamName = Annotated[str, AfterValidator(_stream_name)]


class Section(BaseModel):
    """Part of the configuration; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(Section):
    """Where the server listens."""

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for every interface.")
    port: int = Field(8000, ge=0, le=65535, description="Port; 0 picks a free one.")
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class ModelSettings(Section):
    """Which network is served."""

    architecture: str = Field("glyphs", description="'glyphs', a torchvision classifier, or 'package.module:factory'.")
    name: str = Field("", description="Name in URLs and metrics; the architecture's when empty.")
    weights: Path | None = Field(None, description="Local safetensors or torch file with the state dict.")
    sha256: str = Field("", description="Expected digest of the weights file; empty is not checked.")
    labels: Path | list[str] | None = Field(None, description="Class names: a list, or a text file with one a line.")
    classes: int | None = Field(None, ge=2, description="Number of classes; the architecture's when empty.")
    head: str = Field("", description="Path of the Linear layer that makes the logits; the last one when empty.")
    device: str = Field("auto", description="'cpu', 'cuda', 'cuda:1', or 'auto': the first GPU if there is one.")
    preprocess: dict[str, Any] | None = Field(None, description="Fields of Preprocess; the architecture's when empty.")
    reference: Path | None = Field(
        None, description="Bundle that 'calibrate' wrote; the one next to the weights when empty."
    )


class AdapterSettings(Section):
    """How streams learn."""

    name: str = Field("tent", description="One of: " + ", ".join(adapters.names()))
    settings: dict[str, Any] = Field(
        default_factory=dict, description="Fields of that adapter; the rest keep defaults."
    )


class StatisticsSettings(Section):
    """How much a window's own normalisation statistics are trusted."""

    full_rows: int = Field(
        16, ge=1, description="Images from which they count alone; of n fewer, n / full_rows, and the stored ones rest."
    )
    median: bool = Field(
        False, description="Medians over images in place of means (MedBN): a minority of bad images cannot rule them."
    )


class EngineSettings(Section):
    """How requests are batched and windows gathered."""

    max_rows: int = Field(64, ge=1, description="Most images in one forward, and so in one request.")
    max_delay_ms: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="How long an idle device waits for company; 0 starts at once."
    )
    max_queue_rows: int = Field(1024, ge=1, description="Most images waiting; more get 429.")
    threads: int = Field(0, ge=0, description="CPU threads of a forward; 0 leaves one core to the rest of the server.")
    stack_rows: int = Field(
        64, ge=0, description="Most images of several streams in one stacked forward or step; 0 takes streams in turn."
    )
    window_rows: int = Field(64, ge=2, description="Images of a stream gathered for one learning step.")
    window_min_rows: int | None = Field(
        None, ge=2, description="Images that are enough once a window is `window_max_age_s` old; 16 when empty."
    )
    window_min_age_s: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="How old a window's first image must be; newer ones replace older."
    )
    window_max_age_s: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Age at which a window that is not full is learnt from; 0 never."
    )
    max_lag_s: float = Field(
        0.25,
        ge=0,
        allow_inf_nan=False,
        description="How long a window waits while there are requests to answer; then one step is taken in between.",
    )
    stuck_after_s: float = Field(
        60.0,
        ge=0,
        allow_inf_nan=False,
        description="How long one forward, step or command may take before the server is no longer live; 0 for ever.",
    )

    @model_validator(mode="after")
    def _fits(self) -> "EngineSettings":
        if (self.window_min_rows or 0) > self.window_rows:
            raise ValueError(
                f"window_min_rows is {self.window_min_rows}, expected at most window_rows, {self.window_rows}"
            )
        if self.window_max_age_s and self.window_min_age_s > self.window_max_age_s:
            raise ValueError(
                f"window_min_age_s is {self.window_min_age_s}, expected at most window_max_age_s, "
                f"{self.window_max_age_s}"
            )
        if self.max_queue_rows < self.max_rows:
            raise ValueError(
                f"max_queue_rows is {self.max_queue_rows}, expected at least max_rows, {self.max_rows}: "
                "a request of that many images would never find room"
            )
        return self


class StreamSettings(Section):
    """What one named stream does differently."""

    mode: Mode = "after"


class StreamsSettings(Section):
    """The streams of input."""

    mode: Mode = Field(
        "after",
        description="after: answer, then learn; inline: the request is the batch; shadow: learn, but answer as the "
        "frozen model; off: frozen.",
    )
    reset_every: int = Field(0, ge=0, description="Steps after which a stream starts again from the source; 0 never.")
    max_streams: int = Field(10_000, ge=1, description="Most streams, in memory or on disk; a new one beyond gets 429.")
    max_bytes: int = Field(
        2**30, ge=2**20, description="Most memory of all streams; those idle longest go to disk until they come back."
    )
    idle_s: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Time without a request after which a stream goes to disk; 0 never."
    )
    history_bytes: int = Field(8 * 2**20, ge=0, description="Most memory of one stream's earlier states.")
    max_client_share: float = Field(
        1.0, gt=0, le=1, description="Most of a window that one client may fill; 1 is no limit."
    )
    duplicate_memory: int = Field(
        256, ge=0, description="An image equal to one of that many before is not learnt from; 0 takes all."
    )
    recent_bytes: int = Field(
        64 * 2**20, ge=0, description="Memory for recent images, so that labels that come later can be compared."
    )
    max_labelled: int = Field(
        100, ge=0, description="Streams with metric series of their own; the rest share '_other'."
    )
    named: dict[StreamName, StreamSettings] = Field(
        default_factory=dict, description="Streams that differ from `mode`."
    )


class GuardSettings(Section):
    """What the guard lets pass. Most limits are relative to what the frozen model, or the reference bundle, shows."""

    enabled: bool = Field(True, description="Judge every step before it is taken over.")
    freeze_after: int = Field(
        3, ge=1, description="Restores in a row, with no complete check passed in between, that switch a stream off."
    )
    at_home: bool = Field(
        True, description="While nothing drifts, do not learn and answer from the frozen model; needs a bundle."
    )
    outliers: float = Field(
        0.2, ge=0, lt=0.5, description="Share of strange images in a window that do not make it drift."
    )
    max_update: float = Field(
        0.1, gt=0, description="Largest step, over the norm of the source's parameters; a larger one is refused."
    )
    max_distance: float = Field(
        0.3, gt=0, description="Trust region: parameters farther from the source's, relatively, are drawn back to it."
    )
    min_diversity: float = Field(
        0.7, ge=0, le=1, description="Least diversity of recent answers, over that of the frozen model's; 0 is any."
    )
    max_class_share: float = Field(
        0.3,
        ge=0,
        le=1,
        description="How much more of recent answers one class may have than with the frozen model; 1 is any.",
    )
    canary_every: int = Field(64, ge=1, description="Steps between two readings of the canary images, at most.")
    canary_path: float = Field(
        0.02, gt=0, description="How far the parameters may move, relatively, before the canary is read again."
    )
    canary_margin: float = Field(
        0.02, ge=0, le=1, description="How much less of the canary may be read than by the source, beside chance."
    )
    risk_tolerance: float = Field(
        0.2,
        ge=0,
        lt=0.5,
        description="On how many more images the adapted model may be lost than the frozen one, as a share.",
    )
    risk_windows: int = Field(
        10_000, ge=10, description="Windows between two false alarms of the risk monitor, in the mean, at least."
    )
    min_gain: float = Field(
        -0.6, ge=-1, le=0, description="Least estimated gain in accuracy over the frozen model; -1 only reports it."
    )


class StorageSettings(Section):
    """What outlives the process."""

    url: str = Field(
        "", description="Folder or fsspec URL for states, snapshots and the audit log; empty keeps nothing."
    )
    save_every_s: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="Shortest time between two rounds of writing; a kill loses less."
    )
    keep_states: int = Field(3, ge=2, description="States kept of each stream; an older one if the newest is damaged.")
    keep_snapshots: int = Field(32, ge=1, description="Snapshots kept of each stream; the oldest go first.")
    audit_segment_bytes: int = Field(
        4 * 2**20, ge=1024, description="Size from which the audit log begins a new file; small for s3:// and gs://."
    )
    audit_segments: int = Field(64, ge=1, description="Files of the audit log that are kept; the oldest go first.")
    keep_inputs: bool = Field(False, description="Keep every window that was learnt from, so that it can be replayed.")
    inputs_max_bytes: int = Field(2**30, ge=0, description="Most bytes of such windows for each stream.")


class LimitsSettings(Section):
    """What a request may be."""

    max_body_bytes: int = Field(32 * 2**20, ge=1024, description="Most bytes in a request body.")
    max_pixels: int = Field(16_000_000, ge=1, description="Most pixels in one image, read from its header.")
    decode_threads: int = Field(2, ge=1, description="Threads that decode images.")
    refuse_constant: bool = Field(True, description="Refuse images of one colour: a covered lens, an empty frame.")
    client_header: str = Field(
        "", description="Header that names the client behind a proxy; empty takes the peer's address."
    )


class Settings(BaseSettings):
    """The whole configuration.

    Values come from, in rising order: defaults, the YAML file, `TTA_SECTION__KEY` environment variables, and what
    `load_settings` is given as overrides.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    server: ServerSettings = ServerSettings()
    model: ModelSettings = ModelSettings()
    adapter: AdapterSettings = AdapterSettings()
    statistics: StatisticsSettings = StatisticsSettings()
    engine: EngineSettings = EngineSettings()
    streams: StreamsSettings = StreamsSettings()
    guard: GuardSettings = GuardSettings()
    storage: StorageSettings = StorageSettings()
    limits: LimitsSettings = LimitsSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take command line, environment and file, in falling order; nothing else."""
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls)

    def as_yaml(self) -> str:
        """Return every value in force, as a YAML file that gives the same configuration."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_settings(path: Path | None = None, overrides: dict[str, dict[str, Any]] | None = None) -> Settings:
    """Read and validate the configuration.

    Args:
        path: YAML file; None takes the file that TTA_CONFIG names, or none.
        overrides: Sections with values that win over everything, as from a command line.

    Raises:
        ValueError: If a file is missing or malformed, or a key or value is wrong; one line a problem.
    """
    path = path or (Path(os.environ[_FILE_VARIABLE]) if os.environ.get(_FILE_VARIABLE) else None)
    if path and not path.is_file():
        raise ValueError(f"configuration file '{path}' does not exist")
    if path:
        _check_file(path)
    _refuse_unknown_variables()

    class FromFile(Settings, yaml_file=path, yaml_file_encoding="utf-8"):
        pass

    try:
        settings = FromFile(**(overrides or {}))  # type: ignore[arg-type]
    except ValidationError as error:
        raise ValueError("\n".join(_explain(problem) for problem in error.errors())) from error
    except SettingsError as error:
        raise ValueError(f"configuration cannot be read: {error}") from error
    make_adapter(settings.adapter)
    if settings.model.preprocess is not None:
        make_preprocess(settings.model.preprocess)
    return settings


def make_adapter(section: AdapterSettings) -> adapters.Adapter:
    """Return the adapter that the configuration asks for, its settings converted to their declared types.

    Raises:
        ValueError: If the name, a setting or a value is wrong.
    """
    plain = adapters.create(section.name)
    return _fill(type(plain), section.settings, f"adapter '{section.name}'")


def make_preprocess(fields: dict[str, Any]) -> Preprocess:
    """Return the preprocessing that the configuration asks for.

    Raises:
        ValueError: If a field or value is wrong.
    """
    return _fill(Preprocess, fields, "model.preprocess")


T = TypeVar("T")


def _fill(cls: type[T], values: dict[str, Any], owner: str) -> T:
    fields = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    unknown = sorted(values.keys() - set(fields))
    if unknown:
        raise ValueError(f"{owner} has no setting '{unknown[0]}'; it has {', '.join(fields) or 'none'}")
    try:
        # YAML reads 1e-3 as text and the environment is all text: pydantic converts to what the dataclass declares.
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        raise ValueError("\n".join(f"{owner}: {_explain(problem)}" for problem in error.errors())) from error


def _check_file(path: Path) -> None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"configuration file '{path}' cannot be read: {' '.join(str(error).split())}") from error
    if content is not None and not (isinstance(content, dict) and all(isinstance(key, str) for key in content)):
        sections = ", ".join(Settings.model_fields)
        raise ValueError(f"configuration file '{path}' must be a mapping with some of the keys {sections}")


def _explain(problem: ErrorDetails) -> str:
    if problem["type"] == "extra_forbidden":
        key = ".".join(map(str, problem["loc"]))
        return f"unknown configuration key '{key}'; 'tta-server config' prints the known ones"
    # What pydantic calls the members of a union, and keys, is of no use to a reader: it holds brackets.
    key = ".".join(str(part) for part in problem["loc"] if "[" not in str(part))
    message = problem["msg"].removeprefix("Value error, ")
    if not key or problem["type"] in ("missing", "value_error"):  # these say themselves what was got
        return f"{key}: {message}" if key else message
    return f"{key}: {message}, got {problem['input']!r}"


def _refuse_unknown_variables() -> None:
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    for name, value in os.environ.items():
        section = name.upper().partition("__")[0]
        # Kubernetes puts TTA_..._SERVICE_HOST and TTA_..._PORT there for a Service whose name starts with "tta".
        linked = re.search(r"_SERVICE_(HOST|PORT)|_PORT_\d", name) or (name.endswith("_PORT") and "://" in value)
        if name.upper().startswith(PREFIX) and name != _FILE_VARIABLE and section not in known and not linked:
            raise ValueError(f"unknown environment variable '{name}'; it should be {PREFIX}SECTION__KEY")
