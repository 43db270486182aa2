"""`tta-server export`: write a model as ONNX files."""

import argparse
from pathlib import Path

from tta_server.app import load_model
from tta_server.models.onnx_export import write
from tta_server.settings_file import add_model_options, load_settings, model_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_model_options(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for source.onnx (the model alone), streams.onnx (its normalisation layers are inputs) and "
        "export.json (names, shapes, digest); files of these names are overwritten",
    )


def run(options: argparse.Namespace) -> int:
    """Export and say what was written; returns 0.

    Raises:
        ValueError: If the model cannot be exported; the message says why.
        OSError: If a file cannot be written.
    """
    settings = load_settings(options.config, {"model": model_overrides(options)}).model
    model = load_model(settings, calibrated=False)
    for path in write(model.backbone, model.preprocess, model.labels, options.out):
        print(f"{path} ({path.stat().st_size / 1024:.0f} KiB)")  # noqa: T201
    return 0
