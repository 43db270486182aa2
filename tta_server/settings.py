"""The configuration: one YAML file, environment variables on top, command-line options above both."""

from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

from tta_server.names import STREAM_NAME, stream_name
from tta_server.settings_door import AuthSettings, LimitsSettings, Section, ServerSettings
from tta_server.settings_models import ModelSettings, RepositorySettings
from tta_server.settings_voice import LoggingSettings, TracingSettings, WebhooksSettings

PREFIX = "TTA_"

Mode = Literal["after", "inline", "shadow", "off"]
# A bare `off` is a boolean in YAML 1.1, and the most natural way to write this mode.
WrittenMode = Annotated[Mode, BeforeValidator(lambda value: "off" if value is False else value)]

AdaptWhen = Literal["always", "drift"]


StreamName = Annotated[
    str, AfterValidator(stream_name), Field(json_schema_extra={"pattern": f"^{STREAM_NAME.pattern}$"})
]


class AdapterSettings(Section):
    """How streams learn."""

    name: str = Field(
        "tent",
        description="Name of a method, or your own 'package.module:Class'; an unknown one is refused with all there "
        "are.",
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="Fields of that adapter; the rest keep defaults."
    )


class StatisticsSettings(Section):
    """How much a window's own normalisation statistics are trusted."""

    full_rows: int = Field(
        16, ge=1, description="From so many images on they count alone; of n fewer, they count n / full_rows."
    )
    median: bool = Field(
        False, description="Take medians over images, not means (MedBN): a minority of bad images then changes little."
    )
    source_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of the source's statistics that stays however much is seen; unset, what `calibrate` "
        "measured for the network. 0 is what most papers do.",
    )


class EngineSettings(Section):
    """How requests are batched and windows gathered."""

    max_rows: int = Field(64, ge=1, description="Most images in one forward, and so in one request.")
    max_delay_ms: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="How long an idle device waits for more images; 0 starts at once."
    )
    max_queue_rows: int = Field(1024, ge=1, description="Most images waiting; more get 429.")
    threads: int = Field(0, ge=0, description="CPU threads of a forward; 0 leaves one core to the rest of the server.")
    stack_rows: int = Field(
        64, ge=0, description="Most images of several streams in one stacked forward or step; 0 takes streams in turn."
    )
    window_rows: int = Field(64, ge=2, description="Images of a stream gathered for one learning step.")
    window_min_rows: int | None = Field(
        None, ge=2, description="Fewest images to learn from once a window is `window_max_age_s` old; 16 when empty."
    )
    window_min_age_s: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Least age of a window; until then newer images replace older ones."
    )
    window_max_age_s: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Age at which a window that is not full is learnt from; 0 never."
    )
    learn_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Most of the time that steps take while requests wait for one another; 0 takes none then.",
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

    mode: WrittenMode = Field("after", description="Whether and when it learns, as above.")
    adapt_when: AdaptWhen | None = Field(None, description="As above; empty as all others.")


class StreamsSettings(Section):
    """The streams of input."""

    mode: WrittenMode = Field(
        "after",
        description="after: answer, then learn; inline: the request is the batch; shadow: learn, but answer as the "
        "frozen model; off: frozen.",
    )
    adapt_when: AdaptWhen = Field(
        "always",
        description="always: learn from every window; drift: only while the drift of the stream is 'warning' or "
        "'drift'; other windows are watched and dropped.",
    )
    reset_every: int = Field(0, ge=0, description="Steps after which a stream starts again from the source; 0 never.")
    max_streams: int = Field(
        10_000,
        ge=1,
        description="Most streams, in memory and on disk; one more takes the place of one that never learnt and rests, "
        "or of the newest such of a client that has more than half, or gets 429.",
    )
    expire_s: float = Field(
        86_400.0,
        ge=0,
        allow_inf_nan=False,
        description="Time without a request after which a stream that never learnt is erased; 0 never.",
    )
    max_bytes: int = Field(
        2**30, ge=2**20, description="Most memory of all streams; those idle longest go to disk until they come back."
    )
    idle_s: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Time without a request after which a stream goes to disk; 0 never."
    )
    history_bytes: int = Field(8 * 2**20, ge=0, description="Most memory of one stream's earlier states.")
    max_client_share: float = Field(
        1.0, gt=0, le=1, description="Largest share of a window that one client may fill; 1 is no limit."
    )
    duplicate_memory: int = Field(
        256,
        ge=0,
        description="An image that equals one of so many before it is not learnt from, though the guard looks at what "
        "is answered to it; 0 takes all.",
    )
    recent_bytes: int = Field(
        32 * 2**20,
        ge=0,
        description="Memory for recent images that the frozen model did not answer: it is asked when labels come.",
    )
    max_labelled: int = Field(
        100, ge=0, description="Streams with metric series of their own; the rest share '_other', which counts them."
    )
    named: dict[StreamName, StreamSettings] = Field(
        default_factory=dict, description="Streams that differ from `mode` or `adapt_when`."
    )

    def when(self, name: str) -> AdaptWhen:
        """Return when a stream is to learn."""
        named = self.named.get(name)
        return (named and named.adapt_when) or self.adapt_when


class DomainsSettings(Section):
    """How inputs of one stream are told apart."""

    max: int = Field(
        16,
        ge=1,
        le=256,
        description="Most kinds of input that a stream keeps a state for, beside the source; 1 tells none apart and "
        "learns from everything in one state, as the papers do.",
    )


class GuardSettings(Section):
    """What the guard lets pass. Most limits are relative to what the frozen model, or the reference bundle, shows."""

    enabled: bool = Field(True, description="Judge every step before it is taken over.")
    freeze_after: int = Field(
        3, ge=1, description="Restores in a row, with no complete check passed in between, that switch a stream off."
    )
    max_update: float = Field(
        0.1, gt=0, description="Largest step, relative to the norm of the frozen model's parameters."
    )
    max_distance: float = Field(
        0.3, gt=0, description="Trust region: largest distance from the frozen model's parameters, relatively."
    )
    min_diversity: float = Field(
        0.7, ge=0, le=1, description="Least diversity of recent answers, relative to the frozen model's; 0 allows any."
    )
    max_class_share: float = Field(
        0.3,
        ge=0,
        le=1,
        description="How much more of the recent answers one class may have than with the frozen model; 1 allows any.",
    )
    canary_every: int = Field(64, ge=1, description="Most steps between two checks of the canary images.")
    canary_path: float = Field(
        0.02, gt=0, description="How far the parameters may move, relatively, before the canary is checked again."
    )
    canary_margin: float = Field(
        0.02,
        ge=0,
        le=1,
        description="How much less of the canary than the source a stream may read, beside chance.",
    )
    min_balance: float = Field(
        -0.4,
        ge=-1,
        le=0,
        description="Where a stream and the frozen model differ, whose answers are credible: 1 the stream's alone, -1 "
        "the frozen model's alone. Below this, times the share of images on which they differ, the frozen model "
        "answers, until it is above half of it. The less a stream has answered, the nearer to 0 this is; where "
        "images are of few classes, or the frozen model is sure of nearly all, it must be ahead for some 128 images, "
        "and level from then on.",
    )


class DriftSettings(Section):
    """How the drift of streams is watched, from forwards that are made anyway."""

    enabled: bool = Field(True, description="Score what the frozen model sees, and say whether a stream drifts.")
    window_rows: int = Field(
        64, ge=2, description="Images of a scored window; the largest size that the bundle knows and that is not above."
    )
    false_alarm_windows: float = Field(
        100_000, ge=100, le=1e12, description="While nothing drifts, scores raise an alarm at most once in so many."
    )
    history_windows: int = Field(128, ge=1, le=10_000, description="Scored windows of each stream that are kept.")
    keep_images: int = Field(
        0,
        ge=0,
        le=64,
        description="Last images of each stream that raised the score, kept in memory; at most `engine.max_rows`, 0 "
        "keeps none.",
    )


class StorageSettings(Section):
    """What outlives the process."""

    url: str = Field(
        "", description="Folder or fsspec URL for states, snapshots and the audit log; empty keeps nothing."
    )
    shared: bool = Field(False, description="Whether several servers use the same url; each stream has one at a time.")
    replica: str = Field(
        "",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$",
        description="What this server is called among those; unlike any other. Empty is the host's name.",
    )
    peers: str = Field(
        "",
        pattern=r"^[A-Za-z0-9.-]*$",
        description="Domain in which servers reach one another by name, to be handed streams; empty asks nobody.",
    )
    save_every_s: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="Shortest time between two rounds of writing; a kill loses less."
    )
    keep_states: int = Field(3, ge=2, description="States kept of each stream, in case the newest is damaged.")
    keep_snapshots: int = Field(32, ge=1, description="Snapshots kept of each stream; the oldest go first.")
    audit_segment_bytes: int = Field(
        4 * 2**20, ge=1024, description="Size from which the audit log begins a new file; small for s3:// and gs://."
    )
    audit_segments: int = Field(64, ge=1, description="Files of the audit log that are kept; the oldest go first.")
    keep_inputs: bool = Field(False, description="Keep every window that was learnt from, so that it can be replayed.")
    inputs_max_bytes: int = Field(2**30, ge=0, description="Most bytes of such windows for each stream.")


class Settings(BaseSettings):
    """The whole configuration.

    Values come from, in rising order: defaults, the YAML file, `TTA_SECTION__KEY` environment variables, and what
    `load_settings` is given as overrides.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    server: ServerSettings = ServerSettings()
    model: ModelSettings = ModelSettings()
    repository: RepositorySettings = RepositorySettings()
    adapter: AdapterSettings = AdapterSettings()
    statistics: StatisticsSettings = StatisticsSettings()
    engine: EngineSettings = EngineSettings()
    streams: StreamsSettings = StreamsSettings()
    domains: DomainsSettings = DomainsSettings()
    guard: GuardSettings = GuardSettings()
    drift: DriftSettings = DriftSettings()
    storage: StorageSettings = StorageSettings()
    limits: LimitsSettings = LimitsSettings()
    auth: AuthSettings = AuthSettings()
    logging: LoggingSettings = LoggingSettings()
    webhooks: WebhooksSettings = WebhooksSettings()
    tracing: TracingSettings = TracingSettings()

    @model_validator(mode="after")
    def _fits(self) -> "Settings":
        if self.drift.keep_images > self.engine.max_rows:
            raise ValueError(
                f"drift.keep_images is {self.drift.keep_images}, expected at most engine.max_rows, "
                f"{self.engine.max_rows}: whoever looks has all of them answered in one forward"
            )
        return self

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
        """Return every value in force, as a YAML file that gives the same configuration; secrets show as asterisks."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
