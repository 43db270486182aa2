"""`tta-server` and `python -m tta_server`."""

import sys

from tta_server.signals import end_at_once


def main() -> int:
    """Run the command line, and end at a signal from here on."""
    end_at_once()
    from tta_server import cli  # takes a while, and what it imports longer

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
