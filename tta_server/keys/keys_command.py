"""`tta-server keys new`: make an API key."""

import argparse
import sys
from pathlib import Path

from tta_server.keys.key import EVERYTHING, SCOPES
from tta_server.keys.new_key import new_key


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    commands = parser.add_subparsers(title="what to do", required=True)
    new = commands.add_parser("new", help="make a key, print it once, and keep its digest")
    new.add_argument("--name", required=True, help="what the audit log calls who holds it")
    new.add_argument("--scopes", nargs="+", choices=SCOPES, default=["infer"], help="each holds those before it")
    new.add_argument("--streams", nargs="+", required=True, metavar="PATTERN", help="such as 'gate-*'; '*' is all")
    new.add_argument("--models", nargs="+", default=[EVERYTHING], metavar="PATTERN", help="default: all")
    new.add_argument("--images-per-s", type=float, help="most images a second, on average (default: no limit)")
    new.add_argument("--file", type=Path, help="auth.keys_file, to which it is added (default: print its entry)")


def run(options: argparse.Namespace) -> int:
    """Print a new key, alone on standard output.

    Raises:
        ValueError: If an option is wrong or the file cannot be written.
    """
    entry = {
        "name": options.name,
        "scopes": options.scopes,
        "streams": options.streams,
        "models": options.models,
        "images_per_s": options.images_per_s,
    }
    secret, told = new_key(options.file, entry)
    if options.file is None:
        print(f"add this to 'keys:' in auth.keys_file:\n{told}", file=sys.stderr)
    print(secret)
    print("this is the key; it is shown this once, and kept nowhere", file=sys.stderr)
    return 0
