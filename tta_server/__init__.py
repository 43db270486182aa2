"""The server: HTTP, engine, streams, telemetry, evaluation and the command line."""

__version__: str


def __getattr__(name: str) -> str:
    """Return the version when somebody asks: to look it up takes longer than all else that a command begins with."""
    if name != "__version__":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tta-server")
    except PackageNotFoundError:  # a source folder on a machine where nothing was installed
        return "0"
