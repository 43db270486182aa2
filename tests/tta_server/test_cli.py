"""What the command line prints, and with which status it ends."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tta_server import __version__
from tta_server.cli import main
from tta_server.models.sources import architectures
from tta_server.settings import AdapterSettings, Settings
from tta_server.wanted import make_adapter

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "serve",
    "ready",
    "config",
    "models",
    "inspect",
    "calibrate",
    "evaluate",
    "replay",
    "streams",
    "keys",
    "demo",
)
# Their options are known without what they run.
LIGHT = ("serve", "ready", "config", "models", "evaluate", "streams", "keys", "demo")


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in [name for name in os.environ if name.upper().startswith("TTA_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def _keep_signals():
    """Put back the handlers that `serve` installs."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tta_server", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )


def complaint(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """Return the one line that a command ends with."""
    status = main(arguments)
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert (status, len(lines), printed.out) == (2, 1, "")
    assert lines[0].startswith("tta-server: ")
    return lines[0].removeprefix("tta-server: ")


def test_config_prints_the_defaults(capsys):
    assert main(["config"]) == 0

    assert yaml.safe_load(capsys.readouterr().out) == Settings().model_dump(mode="json")


def test_what_config_prints_is_a_configuration(capsys, tmp_path):
    path = tmp_path / "config.yaml"
    main(["config", "--port", "1234", "--adapter", "bn", "--weights", "w.safetensors"])
    path.write_text(capsys.readouterr().out)

    main(["config", "--config", str(path)])

    assert capsys.readouterr().out == path.read_text()


def test_options_win_over_the_file_and_the_environment(capsys, tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    path.write_text("server: {port: 1, host: 0.0.0.0}\nmodel: {device: cpu}\n")
    monkeypatch.setenv("TTA_SERVER__PORT", "2")

    main(["config", "--config", str(path), "--port", "3", "--model", "resnet18"])

    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["server"]["port"], printed["server"]["host"]) == (3, "0.0.0.0")
    assert (printed["model"]["architecture"], printed["model"]["device"]) == ("resnet18", "cpu")


def test_ports_and_tls_and_runtime_may_be_typed(capsys):
    typed = ["--grpc-port", "1", "--admin-port", "2", "--runtime", "auto"]
    typed += ["--tls-certificate", "a.crt", "--tls-key", "a.key", "--tls-client-ca", "b.crt"]

    assert main(["config", *typed]) == 0

    found = yaml.safe_load(capsys.readouterr().out)
    server = {name: found["server"][name] for name in ("grpc_port", "admin_port")}
    assert server == {"grpc_port": 1, "admin_port": 2}
    files = [found["server"][f"tls_{name}"] for name in ("certificate", "key", "client_ca")]
    assert files == ["a.crt", "a.key", "b.crt"]
    assert found["model"]["runtime"] == "auto"


def test_models_lists_every_architecture_one_a_line(capsys):
    assert main(["models"]) == 0

    assert capsys.readouterr().out.splitlines() == list(architectures())


@pytest.mark.parametrize("where", ["_parser", "_run_models"])
def test_an_interrupt_ends_a_command_quietly_even_before_it_runs(monkeypatch, capsys, where):
    def interrupted(_about: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"tta_server.cli.{where}", interrupted)

    assert main(["models"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["serve", "--port", "http"], ["config", "--speling"]])
def test_a_wrong_command_line_ends_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)

    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_missing_file_is_one_line(capsys):
    assert complaint(capsys, "config", "--config", "nowhere.yaml") == "configuration file 'nowhere.yaml' does not exist"


def test_an_unknown_adapter_is_one_line(capsys):
    assert complaint(capsys, "config", "--adapter", "magic").startswith("unknown adapter 'magic'; use one of ")


@pytest.mark.usefixtures("_keep_signals")
class TestServeRefuses:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--model", "resnet5000"], "unknown model 'resnet5000'"),
            (["--model", "resnet18"], "needs a local weights file"),
            (["--model", "tests.nowhere:make"], "cannot be imported"),
            (["--weights", "nowhere.safetensors"], "weights file 'nowhere.safetensors' does not exist"),
            (["--device", "abacus"], "device 'abacus' is not known"),
        ],
    )
    def test_a_model_that_cannot_be_had(self, options, said, capsys):
        assert said in complaint(capsys, "serve", "--port", "0", *options)

    def test_a_weights_file_that_is_no_weights_file(self, capsys, tmp_path):
        path = tmp_path / "weights.safetensors"
        path.write_text("not weights")

        assert f"weights file '{path}' cannot be read" in complaint(capsys, "serve", "--weights", str(path))

    def test_a_weights_file_that_would_run_code(self, capsys, tmp_path):
        path = tmp_path / "weights.pt"
        torch.save({"weight": Path("run")}, path)

        assert f"weights file '{path}' cannot be read" in complaint(capsys, "serve", "--weights", str(path))

    def test_weights_of_another_network(self, capsys, tmp_path):
        path = tmp_path / "weights.pt"
        torch.save({"fc.weight": torch.zeros(2, 2)}, path)

        assert "do not fit the network" in complaint(capsys, "serve", "--weights", str(path))

    def test_weights_with_another_digest(self, capsys, tmp_path, monkeypatch):
        path = tmp_path / "weights.pt"
        torch.save({"fc.weight": torch.zeros(2, 2)}, path)
        monkeypatch.setenv("TTA_MODEL__SHA256", "0" * 64)

        assert "has sha256" in complaint(capsys, "serve", "--weights", str(path))

    def test_an_adapter_that_does_not_fit_the_network(self, capsys):
        said = complaint(capsys, "serve", "--model", "tests.tta_server.factories:plain", "--adapter", "tent")

        assert said.startswith("adapter 'tent' needs norm_affine, which backbone 'plain' does not have")

    def test_an_address_that_cannot_be_had_before_a_model_is_loaded(self, capsys, monkeypatch):
        monkeypatch.setattr("tta_server.app.load_model", lambda *_: pytest.fail("a model was loaded"))
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])

            reasons = {"127.0.0.1": "address already in use", "203.0.113.1": "cannot assign", "no host": ""}
            for host, reason in reasons.items():
                said = complaint(capsys, "serve", "--host", host, "--port", port, "--insecure-public")
                assert said.startswith(f"cannot listen on {host}:{port}: {reason}")
                assert "; choose another with --host and --port" in said

    @pytest.mark.parametrize("url", ["{file}", "{file}/kept", "/proc/kept", "magic://kept"])
    def test_a_storage_that_cannot_be_used_in_a_sentence(self, url, capsys, tmp_path):
        (tmp_path / "file").touch()
        path = tmp_path / "config.yaml"
        url = url.format(file=tmp_path / "file")
        path.write_text(yaml.safe_dump({"storage": {"url": url}, "model": {"device": "cpu"}, "server": {"port": 0}}))

        said = complaint(capsys, "serve", "--config", str(path))

        assert said.startswith("storage")
        assert url in said
        assert "Errno" not in said
        assert len(said.partition("cannot be used: ")[2]) > 10  # and why


def test_the_version_is_printed():
    done = command("--version")

    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, __version__, "")


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["--help"], ["config"], ["config", "--port", "1234"], *([name, "--help"] for name in LIGHT)],
    ids=" ".join,
)
def test_what_needs_no_network_does_not_wait_for_torch(arguments):
    code = "import sys; sys.modules['torch'] = None; from tta_server.cli import main; sys.exit(main(sys.argv[1:]))"

    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_every_command_is_listed_and_has_its_options(capsys):
    for arguments in ([], *([name] for name in COMMANDS)):
        with pytest.raises(SystemExit) as end:
            main([*arguments, "--help"])
        assert end.value.code == 0

    helps = capsys.readouterr().out.split("usage: ")[1:]
    assert all(f"    {name} " in helps[0] for name in COMMANDS)
    listed = [name for name, text in zip(COMMANDS, helps[1:], strict=True) if "  --" in text]
    assert listed == [name for name in COMMANDS if name not in ("models", "streams", "keys")]


@pytest.mark.parametrize("images", ["127", "3001", "-1"])
def test_the_demo_takes_the_number_of_images_that_its_help_names(images, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert complaint(capsys, "demo", "--images", images).startswith("images must be 128 to 3000 a scene")

    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    assert "128 to 3000" in capsys.readouterr().out


def test_the_default_adapter_is_one_that_can_be_made():
    assert make_adapter(AdapterSettings()).name == AdapterSettings().name


def test_an_error_of_a_real_process_is_one_line_without_a_traceback():
    done = command("serve", "--adapter", "magic")

    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_a_server_that_cannot_warm_up_says_so_and_fails(tmp_path):
    path = tmp_path / "config.yaml"
    model = {"architecture": "tests.tta_server.factories:fragile", "preprocess": {"size": [8, 8]}}
    path.write_text(yaml.safe_dump({"model": model, "server": {"port": 0}}))

    done = command("serve", "--config", str(path))

    said = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert said[-1].startswith("tta-server: the network cannot answer 64 images at once, see engine.max_rows: ")
    assert said[-1].endswith("out of memory, as it were")
    assert not any("Traceback" in line or "started: " in line for line in said)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_a_public_address_without_keys_is_refused(capsys, host):
    said = complaint(capsys, "serve", "--host", host)

    assert "has no keys, so that everybody could change everything" in said
    assert "--insecure-public" in said


def test_a_public_address_with_tokens_is_not(capsys, tmp_path):
    path = tmp_path / "config.yaml"
    auth = {"jwt_keys_file": str(tmp_path / "none.json"), "jwt_audience": "tta-server", "jwt_issuer": "https://x"}
    path.write_text(yaml.safe_dump({"auth": auth, "model": {"device": "cpu"}}))

    said = complaint(capsys, "serve", "--host", "0.0.0.0", "--port", "0", "--config", str(path))

    assert "none.json' cannot be read: No such file" in said


def test_of_its_file_a_server_takes_all_and_a_command_about_a_model_its_section(capsys):
    said = {}
    for name in ("serve", "config", "calibrate"):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        said[name] = "section 'model'" in " ".join(capsys.readouterr().out.split())

    assert said == {"serve": False, "config": False, "calibrate": True}
