"""`tta-server calibrate`: make the reference bundle of a model from images, with labels or without."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import rich.progress
from rich.console import Console
from rich.table import Table

from tta_server.adapters import registered
from tta_server.app import load_model
from tta_server.calibrate.bundle import Sizes, calibrate
from tta_server.calibrate.null import Windows
from tta_server.calibrate.progress import Progress
from tta_server.calibrate.source_data import read
from tta_server.calibrate.with_graphs import with_graphs
from tta_server.guard.lacking import lacking, sentences
from tta_server.models import Reference, glyphs, onnx_graphs
from tta_server.models.backbone import Spec
from tta_server.models.onnx_file import SUFFIX
from tta_server.models.reference import PREPROCESS, beside
from tta_server.models.robust import PART
from tta_server.models.sources import own_file
from tta_server.settings_file import add_model_options, load_settings, model_overrides
from tta_server.settings_models import ModelSettings

_BARELY = 0.1  # beyond chance: of two classes, an accuracy of 0.95 is not about chance

_PARTS = {
    "fisher": "how much the answers depend on each scale and shift (eata)",
    "memory": "features and labels to vote (adanpc)",
    "vida": "pre-trained adapters (vida)",
    "canary": "labelled images to watch the accuracy with",
    "histogram": "share of each class among the answers",
    "features": "mean, precision and distances of the features",
    "confidence": "largest probabilities",
    "energy": "free energies",
    "atc": "threshold of the accuracy estimate",
    "classes": "what the predicted class explains of drift scores",
    "null": "quantiles of each drift score without drift",
    "null_moments": "mean and deviation of each drift score without drift",
    "style": "space in which domains are told apart",
    "statistics": "how much of the source's normalisation statistics stays",
    "onnx": "the network for ONNX Runtime (model.runtime)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to `parser`."""
    add_model_options(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--data",
        help="labelled source images that the model was not trained on: a folder with one folder a class, named as "
        "the model's labels; an .npz file with 'images' (N, C, H, W) and 'labels' (N,); or 'glyphs'. One image a class "
        "is enough; parts that need more are left out and named",
    )
    source.add_argument(
        "--unlabelled",
        help="source images without labels, a few hundred: a folder with image files of any names in any folders; an "
        ".npz file with 'images'; or 'glyphs'. Parts that need labels are left out and named",
    )
    parser.add_argument("--out", type=Path, help="bundle to write (default: next to the weights, where it is found)")
    parser.add_argument(
        "--skip-broken",
        action="store_true",
        help="open every image of the folder first, and leave out those that cannot be read and empty class folders",
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=5000,
        help="most images used; they are held in memory as bytes, 147 KiB each at 224x224 (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="images in one forward (default: %(default)s)")
    parser.add_argument(
        "--forward-images",
        type=int,
        default=Windows.forward_images,
        help="images run through the network for each size of window without drift, sizes being 16, 32, 64, 128 and "
        "256 as far as there are images and a window takes at most 64 MiB; of each at least 10 windows are run, so at "
        "224x224 at least 1,120 images, and smaller ones 4,960; 0 leaves the scores of normalisation layers out "
        "(default: %(default)s)",
    )
    parser.add_argument("--without-vida", action="store_true", help="do not train adapters for 'vida'")
    parser.add_argument("--without-onnx", action="store_true", help="make no graphs for ONNX Runtime")


def run(options: argparse.Namespace) -> int:
    """Calibrate, write the bundle and print what is in it.

    Returns:
        The exit status, 0.

    Raises:
        ValueError: If the model or the data cannot be used.
        OSError: If the bundle cannot be written.
    """
    if min(options.limit, options.batch) < 1 or min(options.forward_images, options.seed) < 0:
        raise ValueError("--limit and --batch must be at least 1, --forward-images and --seed at least 0")
    settings = load_settings(options.config, {"model": model_overrides(options)}).model
    out = _out(options.out, settings)
    model = load_model(settings, calibrated=False)
    console = Console()
    with _bars(console) as told:
        labelled = options.unlabelled is None
        named = options.data if labelled else options.unlabelled
        data = read(named, model, options.limit, options.seed, told, options.skip_broken, labelled)
        reference = calibrate(
            model.backbone,
            data.images,
            data.labels,
            seed=options.seed,
            progress=told,
            sizes=Sizes(windows=Windows(forward_images=options.forward_images), forward=options.batch),
            methods=[m for m in registered() if not (m.name == "vida" and options.without_vida)],
        )
        if not (options.without_onnx or settings.architecture.endswith(SUFFIX)):
            reference = with_graphs(reference, model.backbone, told)
    made_with = {"model": model.backbone.spec.name, PREPROCESS: model.preprocess.about()}
    reference = replace(reference, about={**reference.about, **made_with})
    reference.save(out)
    for remark in data.remarks:
        console.print(remark, soft_wrap=True, highlight=False, markup=False)
    _report(reference, out, model.backbone.spec, console)
    return 0


def _out(out: Path | None, settings: ModelSettings) -> Path:
    weights = settings.weights or own_file(settings.architecture)
    if out is None and weights is None and settings.architecture != "glyphs":
        raise ValueError(f"model '{settings.architecture}' has no weights file to put the bundle next to; give --out")
    path = out or (beside(weights) if weights else glyphs.REFERENCE)
    if not path.parent.is_dir():  # known now, not after minutes of work
        raise ValueError(f"folder '{path.parent}' of --out does not exist")
    return path


@contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    counted = rich.progress.MofNCompleteColumn(), rich.progress.TimeRemainingColumn()
    columns = (*rich.progress.Progress.get_default_columns()[:2], *counted)
    with rich.progress.Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def told(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield told


def _report(reference: Reference, out: Path, spec: Spec, console: Console) -> None:
    table = Table("part", "what", "tensors", "KiB", box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    known = {made.part.name: made.part.label for made in registered() if made.part} | _PARTS
    for name in sorted(reference.parts, key=list(_PARTS | known).index):
        tensors = reference.part(name).values()
        kib = sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1024
        table.add_row(name, known[name], str(len(tensors)), f"{kib:.1f}")
    console.print(table, highlight=False)
    for line in _said(reference, out, spec):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def about_chance(accuracy: float, classes: int) -> bool:
    """Say whether guessing one of so many classes would be about as accurate."""
    chance = 1 / classes
    return accuracy < chance + min(chance, _BARELY)


def _said(reference: Reference, out: Path, spec: Spec) -> Iterator[str]:
    """Say what the bundle lacks and what that costs, and what it was made of."""
    reasons = reference.about.get("left_out", {})
    missing = lacking(reference, spec, registered())
    yield from sentences({part: cost for part, cost in missing.items() if part in reasons}, reasons)
    if without := reasons.get(onnx_graphs.PART):
        yield f"no {onnx_graphs.PART} ({without}): torch answers, which takes longer on a CPU"
    accuracy, images = reference.about.get("accuracy"), reference.about["images"]
    reads = "no labels" if accuracy is None else f"source accuracy {accuracy:.1%}"
    yield f"{images} source images, {reads}; wrote {out} ({out.stat().st_size / 1024:.0f} KiB)"
    if copies := reference.about.get("copies"):
        yield f"{copies} more images were left out: they are copies of these, and say nothing of how images vary"
    if found := reference.about.get(PART):
        share, errors = found["source_share"], found["errors"]
        changed = f"{errors['1.0']:.0%} of source images are read otherwise once they are spoilt"
        if share == 1:
            yield f"{changed}, and no fewer with statistics of their own: a stream's stay the source's"
        else:
            own = f"{errors[str(share)]:.0%} with statistics that are {1 - share:.0%} their own"
            yield f"{changed}, and {own}: a stream's may move so far"
    if accuracy is not None and about_chance(accuracy, spec.classes):
        yield (
            "that accuracy is about chance: the labels are in another order than the model's, or the preprocessing is "
            "not the one it was trained with"
        )
