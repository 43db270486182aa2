"""What is shown on a terminal, whoever said it."""

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

from tta_server.plain import plain_lines


class Plain:
    """Something to show whose text commands no terminal; what its style says is this program's own, and stays."""

    def __init__(self, shown: RenderableType) -> None:
        """Wrap `shown`."""
        self._shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._shown, options):
            yield segment._replace(text=plain_lines(segment.text))
