"""`tta-server evaluate`: which adapter, on my model and my data?"""

import argparse
import importlib.util
from pathlib import Path

from tta_server.settings_file import add_model_options

# Not imported: what the options are called must be known without what 'evaluate' needs.
_PROTOCOLS = "continual, reset, gradual, mixed, correlated, single"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add_model_options(parser)
    add("--data", default="glyphs", help="'glyphs', an image folder, or CIFAR-C or ImageNet-C (default: %(default)s)")
    add(
        "--skip-broken",
        action="store_true",
        help="open every image file first, and leave out those that cannot be read and empty class folders",
    )
    add("--adapters", default="all", help="names separated by commas, or all; 'source' always runs (default: all)")
    add("--settings", nargs="+", default=[], action="extend", metavar="NAME:KEY=VALUE,...", help="one row each")
    add("--protocol", default="continual", help=f"some of {_PROTOCOLS}, or all (default: %(default)s)")
    add("--clean", action="store_true", help="replay the same protocols without corruption: does adapting do harm?")
    add("--severity", type=int, default=5, choices=range(1, 6), help="of the corruptions (default: %(default)s)")
    add("--batch", type=int, default=64, help="images in a request and in a window (default: %(default)s)")
    add(
        "--images",
        help="images of each domain, or all (default: 256, or as many as there are); time grows with them, and the "
        "fewer, the more counts the first window after each change, which most adapters answer with what they knew",
    )
    add("--delta", type=float, default=0.1, help="the smaller, the more correlated is 'correlated' (default: 0.1)")
    add(
        "--guard",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="judge every window and step as the server does by default; give each choice an --out of its own",
    )
    add(
        "--domains",
        type=int,
        default=1,
        help="most kinds of input that a stream tells apart, as the server does with domains.max; needs a bundle with "
        "styles (default: 1: one state for everything, as in the papers)",
    )
    add("--seed", type=int, default=0, help="of the images, their corruption and order (default: %(default)s)")
    add("--out", type=Path, default=Path("evaluation"), help="folder for the results (default: ./evaluation)")
    add(
        "--resume",
        action=argparse.BooleanOptionalAction,
        help="go on with what is in the folder (default: if it is of the same arguments; --no-resume overwrites)",
    )


def run(options: argparse.Namespace) -> int:
    """Evaluate, print the tables and write the report.

    Returns:
        0, or 1 if an adapter broke.

    Raises:
        ValueError: If an option is wrong, or the data do not fit the model.
    """
    missing = [name for name in ("cv2", "matplotlib", "scipy") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"'evaluate' needs {', '.join(missing)}; install tta-server[evaluate] (for the image: docs/deploy.md)"
        )
    if options.batch < 2:
        raise ValueError(f"batch must be at least 2, got {options.batch}; protocol 'single' sends one image at a time")
    from rich.console import Console

    from tta_server.evaluate import heatmap, report
    from tta_server.evaluate.campaign import Campaign
    from tta_server.evaluate.variants import variants

    console = Console(highlight=False)
    rows = variants(options.adapters, options.settings)
    campaign = Campaign(options)
    console.out("; ".join(campaign.notes))
    results = campaign.run(rows)
    tables = {protocol: report.compare(lines) for protocol, lines in results.items()}
    root = campaign.folder.root
    report.write(root, campaign.folder.arguments, tables)
    for protocol, lines in tables.items():
        heatmap.draw(root / f"heatmap-{protocol}.png", lines, f"{protocol}: error in %")
        width = max(console.width, 80) if console.is_terminal else None
        console.out(report.as_text(lines, report.title(protocol), width), highlight=False)
    console.out(f"Tables and pictures are in {root}", highlight=False)
    return int(any(result.status == "failed" for lines in results.values() for result in lines))
