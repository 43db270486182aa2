"""The command line: `tta-server serve | config | models | calibrate | evaluate | replay | demo`."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tta_server import __version__, replay_command
from tta_server.calibrate import calibrate_command
from tta_server.evaluate import evaluate_command
from tta_server.models.catalog import architectures
from tta_server.settings import Settings, load_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; what the user got wrong is printed in one line, status 2."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (ValueError, OSError) as error:
        print(f"tta-server: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tta-server", description="Serve a vision model that adapts while it answers."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True)

    serve = commands.add_parser("serve", help="answer requests until stopped")
    _configuration(serve)
    serve.set_defaults(run=_serve)

    config = commands.add_parser("config", help="print the configuration in force, as YAML")
    _configuration(config)
    config.set_defaults(run=_config)

    listing = commands.add_parser("models", help="list the architectures that can be served")
    listing.set_defaults(run=_models)

    calibrate = commands.add_parser("calibrate", help="make a model's reference bundle from labelled images")
    calibrate_command.add_arguments(calibrate)
    calibrate.set_defaults(run=calibrate_command.run)

    evaluate = commands.add_parser("evaluate", help="compare adapters on your model and your data")
    evaluate_command.add_arguments(evaluate)
    evaluate.set_defaults(run=evaluate_command.run)

    replay = commands.add_parser("replay", help="rebuild a stream's state from the audit log and kept windows")
    replay_command.add_arguments(replay)
    replay.set_defaults(run=replay_command.run)

    demo = commands.add_parser("demo", help="replay a drifting camera against a server, frozen and adapting")
    demo.add_argument("--once", action="store_true", help="stop the server at the end instead of leaving it running")
    demo.add_argument("--images", type=int, default=1000, help="images a phase, 400 to 2000 (default: %(default)s)")
    demo.add_argument("--severity", type=int, default=5, choices=range(1, 6), help="of the corruptions (default: 5)")
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder for chart and table (default: ./demo)")
    demo.add_argument("--port", type=int, default=0, help="port of the server (default: a free one)")
    demo.set_defaults(run=_demo)
    return parser


def _configuration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help="YAML file (default: the one that TTA_CONFIG names)")
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="port to listen on; 0 picks a free one")
    parser.add_argument("--model", help="architecture to serve")
    parser.add_argument("--weights", type=Path, help="local file with its weights")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or auto")
    parser.add_argument("--adapter", help="how streams learn")


def _settings(options: argparse.Namespace) -> Settings:
    given: dict[str, dict[str, Any]] = {
        "server": {"host": options.host, "port": options.port},
        "model": {"architecture": options.model, "weights": options.weights, "device": options.device},
        "adapter": {"name": options.adapter},
    }
    chosen = {section: {k: v for k, v in values.items() if v is not None} for section, values in given.items()}
    return load_settings(options.config, {section: values for section, values in chosen.items() if values})


def _serve(options: argparse.Namespace) -> int:
    from tta_server.serve import serve

    serve(_settings(options))
    return 0


def _config(options: argparse.Namespace) -> int:
    print(_settings(options).as_yaml(), end="")
    return 0


def _models(_options: argparse.Namespace) -> int:
    print("\n".join(architectures()))
    return 0


def _demo(options: argparse.Namespace) -> int:
    missing = [name for name in ("cv2", "httpx", "matplotlib", "scipy") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"the demo needs {', '.join(missing)}; install tta-server[evaluate]")
    from tta_server.demo.demo_command import demo

    return demo(options.images, options.severity, options.out, options.port, keep=not options.once)
