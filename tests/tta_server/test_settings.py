"""Where the configuration comes from, and what is said of a wrong one."""

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_server.names import STREAM_NAME
from tta_server.settings import Settings
from tta_server.settings_file import load_settings

SECTIONS = sorted(Settings.model_fields)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in [name for name in os.environ if name.upper().startswith("TTA_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "config.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def complaint(path: Path | None = None, overrides: dict | None = None) -> str:
    """Return the one line that is said of a configuration."""
    with pytest.raises(ValueError, match=r".") as error:
        load_settings(path, overrides)
    message = str(error.value)
    assert "\n" not in message
    assert "://" not in message
    assert "pydantic" not in message
    return message


def test_a_file_wins_over_the_defaults(write):
    loaded = load_settings(write("server: {port: 1234}"))

    assert (loaded.server.port, loaded.server.host) == (1234, "127.0.0.1")


def test_the_environment_wins_over_the_file(write, monkeypatch):
    monkeypatch.setenv("TTA_SERVER__PORT", "2345")

    loaded = load_settings(write("server: {port: 1234, host: 0.0.0.0}"))

    assert (loaded.server.port, loaded.server.host) == (2345, "0.0.0.0")


def test_overrides_win_over_the_environment(write, monkeypatch):
    monkeypatch.setenv("TTA_SERVER__PORT", "2345")
    monkeypatch.setenv("TTA_SERVER__HOST", "::1")

    loaded = load_settings(write("server: {port: 1234, keep_alive_s: 5}"), {"server": {"port": 3456}})

    server = loaded.server
    assert (server.host, server.port, server.keep_alive_s) == ("::1", 3456, 5.0)


def test_adapter_settings_are_merged_key_by_key(write, monkeypatch):
    monkeypatch.setenv("TTA_ADAPTER__SETTINGS__LR", "1e-2")

    loaded = load_settings(write("adapter: {settings: {momentum: 0.5, lr: 1}}"))

    assert loaded.adapter.settings == {"momentum": 0.5, "lr": "1e-2"}


def test_the_variable_names_the_file(write, monkeypatch):
    monkeypatch.setenv("TTA_CONFIG", str(write("server: {port: 1234}")))

    assert load_settings().server.port == 1234


def test_a_file_that_is_given_wins_over_the_variable(write, monkeypatch, tmp_path):
    monkeypatch.setenv("TTA_CONFIG", str(tmp_path / "nowhere.yaml"))

    assert load_settings(write("server: {port: 1234}")).server.port == 1234


def test_an_empty_file_is_the_defaults(write):
    assert load_settings(write("# nothing yet\n")).model_dump() == Settings().model_dump()


@pytest.mark.parametrize("section", SECTIONS)
def test_an_unknown_key_is_refused_in_every_section(section, write):
    message = complaint(write(f"{section}: {{speling: 1}}"))

    assert message.startswith(f"unknown configuration key '{section}.speling'")


@pytest.mark.parametrize("section", SECTIONS)
def test_an_unknown_key_in_the_environment_is_refused(section, monkeypatch):
    monkeypatch.setenv(f"TTA_{section.upper()}__SPELING", "1")

    assert f"'{section}.speling'" in complaint()


def test_an_unknown_section_is_refused(write):
    assert "'servers'" in complaint(write("servers: {port: 1}"))


def test_an_unknown_adapter_setting_is_refused_and_the_known_ones_named(write):
    message = complaint(write("adapter: {name: bn, settings: {lr: 1}}"))

    assert message == "adapter 'bn' has no setting 'lr'; it has stats, stats_momentum"


@pytest.mark.parametrize("name", [".", "..", "...", "stats", "a/b", "a b", "x" * 65, "ä"])
def test_a_model_s_name_is_one_that_a_path_can_hold(name):
    for sections in ({"model": {"name": name}}, {"repository": {"models": {name: {}}}}):
        assert "must be 1 to 64 letters" in complaint(overrides=sections)
    assert load_settings(None, {"model": {"name": "vit:v1@2.stats"}}).model.name == "vit:v1@2.stats"


@pytest.mark.parametrize("missing", ["jwt_keys_file", "jwt_audience", "jwt_issuer"])
def test_tokens_are_not_taken_without_saying_whose_and_for_whom(missing):
    auth = {"jwt_keys_file": "jwks.json", "jwt_audience": "tta-server", "jwt_issuer": "https"}

    message = complaint(overrides={"auth": {name: value for name, value in auth.items() if name != missing}})

    assert "are set together or not at all" in message
    assert "another service" in message


@pytest.mark.parametrize(
    "name", ["TTA_PORT", "TTA_SERVER_PORT", "TTA_", "TTA_SERVERS__PORT", "tta_port", "TTA_CONFIG__X"]
)
def test_an_unknown_variable_is_refused(name, monkeypatch):
    monkeypatch.setenv(name, "8000")

    assert f"'{name}'" in complaint()


@pytest.mark.parametrize("service", ["TTA", "TTA_SERVER", "TTA_DEMO_2"])
def test_the_variables_that_kubernetes_sets_for_a_service_are_ignored(service, monkeypatch):
    for suffix, value in {
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": "80",
        "SERVICE_PORT_HTTP": "80",
        "PORT": "tcp://10.0.0.1:80",
        "PORT_80_TCP": "tcp://10.0.0.1:80",
        "PORT_80_TCP_PROTO": "tcp",
        "PORT_80_TCP_ADDR": "10.0.0.1",
    }.items():
        monkeypatch.setenv(f"{service}_{suffix}", value)

    assert load_settings().model_dump() == Settings().model_dump()


def test_a_variable_of_any_case_is_known(monkeypatch):
    monkeypatch.setenv("tta_server__port", "2345")

    assert load_settings().server.port == 2345


def test_off_may_be_written_without_quotes(write):
    loaded = load_settings(write("streams: {mode: off, named: {door: {mode: off}, yard: {mode: after}}}"))

    assert loaded.streams.mode == "off"
    assert {name: stream.mode for name, stream in loaded.streams.named.items()} == {"door": "off", "yard": "after"}


def test_a_stream_can_be_named_in_the_environment(monkeypatch):
    monkeypatch.setenv("TTA_STREAMS__NAMED__DOOR__MODE", "off")

    assert load_settings().streams.named["door"].mode == "off"


def test_a_number_that_yaml_reads_as_text_is_a_number(write):
    loaded = load_settings(write("adapter: {settings: {lr: 1e-3}}\nengine: {max_delay_ms: 1e1}"))

    assert loaded.engine.max_delay_ms == 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server: {port: 70000}", "server.port"),
        ("server: {port: http}", "server.port"),
        ("server: {port: 8000, admin_port: 8000}", "port, grpc_port and admin_port are different ports"),
        ("server: [1]", "server"),
        ("server:", "server"),
        ("logging: {level: loud}", "logging.level"),
        ("model: {classes: 1}", "model.classes"),
        ("model: {preprocess: {}}", "model.preprocess: size"),
        ("model: {preprocess: {size: [0, 8]}}", "size must be positive"),
        ("model: {preprocess: {size: [8, 8], speling: 1}}", "speling"),
        ("engine: {max_rows: 0}", "engine.max_rows"),
        ("engine: {max_delay_ms: .inf}", "engine.max_delay_ms"),
        ("engine: {max_delay_ms: .nan}", "engine.max_delay_ms"),
        ("engine: {window_rows: 1}", "engine.window_rows"),
        ("engine: {max_rows: 64, max_queue_rows: 63}", "max_queue_rows is 63, expected at least max_rows, 64"),
        (
            "{engine: {max_rows: 8}, drift: {keep_images: 9}}",
            "drift.keep_images is 9, expected at most engine.max_rows, 8",
        ),
        ("streams: {mode: on}", "streams.mode"),
        ("streams: {named: {'a b': {mode: off}}}", "stream name 'a b'"),
        ("streams: {named: {door: {speling: 1}}}", "streams.named.door.speling"),
        ("limits: {max_pixels: 0}", "limits.max_pixels"),
        ("adapter: {name: nothing}", "unknown adapter 'nothing'"),
        ("adapter: {settings: {lr: fast}}", "adapter 'tent': lr"),
        ("adapter: {settings: {lr: -1}}", "lr must be > 0"),
        ("adapter: {settings: {stats_momentum: 2}}", "stats_momentum must be in (0, 1]"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(text, said, write):
    assert said in complaint(write(text))


def test_several_wrong_values_get_a_line_each(write):
    with pytest.raises(ValueError, match=r".") as error:
        load_settings(write("server: {port: 70000}\nengine: {max_rows: 0}"))

    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == ["server.port", "engine.max_rows"]


@pytest.mark.parametrize(
    "text",
    [
        "- server",
        "server",
        "3",
        "1: {port: 1}",
        "a: [",
        "a: b: c",
        "\t",
        "\x00",
        "!!python/object:os.system {}",
        b"\xff\xfe\x00",
    ],
)
def test_a_file_that_is_no_mapping_is_refused_with_its_name(text, write):
    path = write(text)

    assert complaint(path).startswith(f"configuration file '{path}'")


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_is_not_there_is_refused_with_its_name(name, tmp_path):
    path = tmp_path / name

    assert complaint(path) == f"configuration file '{path}' does not exist"


def test_a_variable_that_is_no_json_is_refused(monkeypatch):
    monkeypatch.setenv("TTA_SERVER", "{port")

    assert "server" in complaint()


finite = st.floats(1e-6, 1e3, allow_nan=False)
rates = st.floats(1e-9, 10)
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=12)
paths = st.from_regex(r"[a-z0-9._ -]{1,8}(/[a-z0-9._ -]{1,8})?", fullmatch=True).map(Path)
modes = st.sampled_from(["after", "inline", "off"])


def section(**keys: st.SearchStrategy) -> st.SearchStrategy[dict]:
    return st.fixed_dictionaries({}, optional=keys)


@st.composite
def engines(draw) -> dict:
    rows = draw(st.integers(1, 512))
    delay, room = draw(finite), draw(st.integers(0, 9999))
    return {
        "max_rows": rows,
        "max_queue_rows": rows + room,
        "max_delay_ms": delay,
        "window_rows": draw(st.integers(2, 999)),
    }


configurations = section(
    server=section(host=words, port=st.integers(0, 65535)),
    logging=section(level=st.sampled_from(["debug", "info", "error"]), format=st.sampled_from(["human", "json"])),
    model=section(
        architecture=words,
        name=st.from_regex(r"[A-Za-z0-9._:@-]{0,12}", fullmatch=True),
        weights=paths | st.none(),
        labels=paths | st.lists(words) | st.none(),
        classes=st.integers(2, 2000) | st.none(),
        preprocess=st.none() | st.fixed_dictionaries({"size": st.tuples(st.integers(1, 64), st.integers(1, 64))}),
    ),
    adapter=st.one_of(
        st.just({"name": "source"}),
        st.fixed_dictionaries({"name": st.just("bn"), "settings": section(stats=st.sampled_from(["batch", "ema"]))}),
        st.fixed_dictionaries({"name": st.just("tent"), "settings": section(lr=rates, momentum=st.floats(0, 0.99))}),
    ),
    engine=engines(),
    streams=section(
        mode=modes,
        max_streams=st.integers(1, 10**9),
        named=st.dictionaries(
            st.from_regex(STREAM_NAME, fullmatch=True), st.fixed_dictionaries({"mode": modes}), max_size=4
        ),
    ),
    limits=section(max_body_bytes=st.integers(1024, 2**60), max_pixels=st.integers(1, 2**60)),
)


@settings(deadline=None, max_examples=60)
@given(chosen=configurations)
def test_what_as_yaml_prints_is_the_same_configuration(chosen, tmp_path_factory):
    loaded = load_settings(None, chosen)
    path = tmp_path_factory.mktemp("round") / "config.yaml"

    path.write_text(loaded.as_yaml(), encoding="utf-8")

    # A tuple is a list in YAML: compare what each would print.
    assert load_settings(path).as_yaml() == loaded.as_yaml()


@settings(deadline=None, max_examples=100)
@given(
    content=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | words,
        lambda x: st.lists(x) | st.dictionaries(words | st.sampled_from(SECTIONS), x),
    )
)
def test_no_file_raises_anything_but_a_value_error(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "config.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")

    try:
        load_settings(path)
    except ValueError as error:
        assert str(error)  # noqa: PT017 (either outcome is right)
