"""The server: HTTP, engine, streams, telemetry, evaluation and the command line."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tta-server")
except PackageNotFoundError:  # a source folder on a machine where nothing was installed
    __version__ = "0"
