"""The command line: `tta-server COMMAND`.

Commands are serve, ready, config, models, inspect, calibrate, evaluate, export, replay, streams, report, keys and demo.
"""

# What takes seconds to import, torch above all, is imported by the commands that need it; so is what only
# a server has, for `streams` and `report` work where that is not installed.
import argparse
import gc
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_server import __version__
from tta_server.plain import plain_lines
from tta_server.signals import interrupt_again

if TYPE_CHECKING:
    from tta_server.settings import Settings

_SERVER_OPTIONS = "host", "port", "grpc_port", "admin_port", "tls_certificate", "tls_key", "tls_client_ca"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; what the user got wrong is printed in one line, status 2."""
    typed = sys.argv[1:] if arguments is None else arguments
    try:
        options = _parser(typed).parse_args(typed)  # imports what the command needs
        if options.needs:
            _import(options.needs)
        interrupt_again()
        return int(options.run(options))
    except (ValueError, OSError) as error:
        print(f"tta-server: {plain_lines(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _import(name: str) -> None:
    """Import what stays; meanwhile and afterwards the collector does not go through all of torch, again and again."""
    gc.disable()
    try:
        importlib.import_module(name)
        gc.freeze()
    finally:
        gc.enable()


def _parser(typed: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of the command line; of the commands, only those that were typed have their options."""
    parser = argparse.ArgumentParser(
        prog="tta-server", description="Serve a vision model that adapts while it answers."
    )
    parser.set_defaults(needs="")  # a module that takes long to import, and is not needed for its options
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True)
    for name, (summary, complete) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if name in typed:
            complete(command)
    return parser


def _serve(parser: argparse.ArgumentParser) -> None:
    _configuration(parser)
    parser.set_defaults(run=_run_serve, needs="tta_server.serve")


def _ready(parser: argparse.ArgumentParser) -> None:
    _configuration(parser)
    parser.set_defaults(run=_run_ready)


def _config(parser: argparse.ArgumentParser) -> None:
    _configuration(parser)
    parser.set_defaults(run=_run_config)


def _models(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_run_models, needs="tta_server.models.sources")


def _inspect(parser: argparse.ArgumentParser) -> None:
    from tta_server import inspect_command

    inspect_command.add_arguments(parser)
    parser.set_defaults(run=inspect_command.run)


def _calibrate(parser: argparse.ArgumentParser) -> None:
    from tta_server.calibrate import calibrate_command

    calibrate_command.add_arguments(parser)
    parser.set_defaults(run=calibrate_command.run)


def _evaluate(parser: argparse.ArgumentParser) -> None:
    from tta_server.evaluate import evaluate_command

    evaluate_command.add_arguments(parser)
    parser.set_defaults(run=evaluate_command.run, needs="tta_server.evaluate.campaign")


def _export(parser: argparse.ArgumentParser) -> None:
    from tta_server import export_command

    export_command.add_arguments(parser)
    parser.set_defaults(run=export_command.run)


def _replay(parser: argparse.ArgumentParser) -> None:
    from tta_server import replay_command

    replay_command.add_arguments(parser)
    parser.set_defaults(run=replay_command.run)


def _streams(parser: argparse.ArgumentParser) -> None:
    from tta_server.operate import streams_command

    streams_command.add_arguments(parser)
    parser.set_defaults(run=streams_command.run)


def _report(parser: argparse.ArgumentParser) -> None:
    from tta_server.operate import streams_command

    streams_command.add_report_arguments(parser)
    parser.set_defaults(run=streams_command.run)


def _keys(parser: argparse.ArgumentParser) -> None:
    from tta_server.keys import keys_command

    keys_command.add_arguments(parser)
    parser.set_defaults(run=keys_command.run)


def _demo(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--once", action="store_true", help="stop the server at the end instead of leaving it running")
    add("--images", type=int, default=256, help="images a scene, 128 to 3000 (default: %(default)s)")
    add("--severity", type=int, default=5, choices=range(1, 6), help="of the corruptions (default: %(default)s)")
    add("--out", type=Path, default=Path("demo"), help="folder for chart and table (default: ./demo)")
    add("--port", type=int, default=0, help="port of the server (default: a free one)")
    parser.set_defaults(run=_run_demo)


_COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "serve": ("answer requests until stopped", _serve),
    "ready": ("ask the server of this configuration whether it is ready; ends with 0 or 1", _ready),
    "config": ("print the configuration in force, as YAML", _config),
    "models": ("list the embedded networks and torchvision's; docs/networks.md says what else can be served", _models),
    "inspect": ("try a model: how it is read, what is shared, which adapters it can have", _inspect),
    "calibrate": ("make a model's reference bundle from source images, labelled or not", _calibrate),
    "evaluate": ("compare adapters on your model and your data", _evaluate),
    "export": ("write a model as ONNX files", _export),
    "replay": ("rebuild a stream's state from the audit log and kept windows", _replay),
    "streams": ("look at the streams of a running server, and change them", _streams),
    "report": ("write what is known of a stream of a running server as an HTML page", _report),
    "keys": ("make an API key", _keys),
    "demo": ("replay a drifting camera against a server, frozen and adapting", _demo),
}


def _configuration(parser: argparse.ArgumentParser) -> None:
    from tta_server.settings_file import add_model_options, add_runtime_option

    add_model_options(parser, whole=True)
    add_runtime_option(parser)
    add = parser.add_argument
    add("--host", help="address to listen on")
    add("--port", type=int, help="port to listen on; 0 picks a free one")
    add("--grpc-port", type=int, help="port for gRPC, beside HTTP")
    add("--admin-port", type=int, help="port for operations, apart from that for predictions")
    add("--tls-certificate", type=Path, help="the server's certificate, as PEM; all ports then speak TLS")
    add("--tls-key", type=Path, help="its key, as PEM")
    add("--tls-client-ca", type=Path, help="CAs of which a client must show a certificate, as PEM")
    add("--keys-file", type=Path, help="API keys, as 'tta-server keys new' writes them")
    add("--insecure-public", action="store_true", default=None, help="listen on a public address without keys")
    add("--adapter", help="how streams learn")


def _settings(options: argparse.Namespace, whole: bool = True) -> "Settings":
    from tta_server.settings_file import load_settings, model_overrides

    given: dict[str, dict[str, Any]] = {
        "server": {name: getattr(options, name) for name in _SERVER_OPTIONS},
        "model": model_overrides(options),
        "adapter": {"name": options.adapter},
        "auth": {"keys_file": options.keys_file, "insecure_public": options.insecure_public},
    }
    chosen = {section: {k: v for k, v in values.items() if v is not None} for section, values in given.items()}
    return load_settings(options.config, {section: values for section, values in chosen.items() if values}, whole)


def _run_serve(options: argparse.Namespace) -> int:
    from tta_server.serve import serve

    serve(_settings(options))
    return 0


def _run_ready(options: argparse.Namespace) -> int:
    from tta_server.ready_command import trouble_of

    try:
        trouble = trouble_of(_settings(options, whole=False).server)
    except (ValueError, OSError) as error:
        trouble = str(error)
    if trouble:
        print(f"tta-server: {plain_lines(trouble)}", file=sys.stderr)
    return 1 if trouble else 0  # container engines know no other status


def _run_config(options: argparse.Namespace) -> int:
    print(_settings(options).as_yaml(), end="")
    return 0


def _run_models(_options: argparse.Namespace) -> int:
    from tta_server.models.sources import architectures

    print("\n".join(architectures()))
    return 0


def _run_demo(options: argparse.Namespace) -> int:
    missing = [name for name in ("cv2", "httpx", "matplotlib", "scipy") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"the demo needs {', '.join(missing)}; install tta-server[evaluate] (for the image: docs/deploy.md)"
        )
    from tta_server.demo.demo_command import demo

    return demo(options.images, options.severity, options.out, options.port, keep=not options.once)
