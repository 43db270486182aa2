"""All adapters through all protocols, with what is finished already left out."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from tta_server import __version__
from tta_server.app import load_model
from tta_server.domains.space import PART
from tta_server.evaluate.corruptions import CORRUPTIONS
from tta_server.evaluate.datasets import CLEAN, Condition, Dataset, digest
from tta_server.evaluate.protocols import PROTOCOLS, Course, Phase, plan
from tta_server.evaluate.published import open_dataset
from tta_server.evaluate.reader import Reader
from tta_server.evaluate.results import SOURCE, Result, ResultFolder
from tta_server.evaluate.run import Bench, run
from tta_server.evaluate.variants import Variant
from tta_server.models import Model, Reference
from tta_server.settings import GuardSettings
from tta_server.settings_file import load_settings, model_overrides

# Four windows a domain. On two cores the embedded model then takes about 3 minutes a protocol for all adapters, half of
# it CoTTA's and a quarter ViDA's. With less, little but the first window after each change would be measured.
_IMAGES = 256


class Campaign:
    """One model, one data set, and the folder that the results go to.

    Attributes:
        folder: Where results are.
        notes: What the user should know about the data.
    """

    def __init__(self, options: Namespace) -> None:
        """Load model and data, and open the folder.

        Args:
            options: As `evaluate_command.add_arguments` defines them.

        Raises:
            ValueError: If something does not fit, or the folder holds results of other arguments.
        """
        protocols = _protocols(options.protocol)
        model = _model(options)
        _check_domains(options.domains, model)
        with Console(stderr=True).status("listing the images"):
            dataset = open_dataset(options.data, model, options.seed, options.skip_broken)
            course = _course(options, dataset)
            self._plans = {protocol: plan(protocol, dataset, course) for protocol in protocols}
        self._suffix = "-clean" if course.clean else ""
        self.notes = _notes(options.data, dataset, course)
        self.folder = ResultFolder(options.out, _arguments(options, model, dataset, course), options.resume)
        reader = Reader(dataset, options.out / "images")
        guard = GuardSettings() if options.guard else None
        self._bench = Bench(
            model.backbone, model.reference, reader, options.batch, options.seed, guard, options.domains
        )

    def run(self, variants: Sequence[Variant]) -> dict[str, list[Result]]:
        """Return the results of each protocol, in order of `variants`.

        Raises:
            ValueError: If not even the frozen model can be run.
        """
        images = sum(len(phase) for phases in self._plans.values() for phase in phases)
        columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            bar = _Bar(progress, images * len(variants))
            return {
                protocol + self._suffix: self._protocol(protocol + self._suffix, phases, variants, bar)
                for protocol, phases in self._plans.items()
            }

    def _protocol(
        self, protocol: str, phases: Sequence[Phase], variants: Sequence[Variant], bar: "_Bar"
    ) -> list[Result]:
        results: list[Result] = []
        prepared = False
        for variant in variants:
            bar.begin(f"{protocol}: {variant.label}", sum(map(len, phases)))
            key = digest(variant.key())
            result = self.folder.load(protocol, variant.label, key)
            if result is None:
                if not prepared:
                    bar.describe(f"{protocol}: corrupting images")
                    self._bench.reader.prepare(phases, lambda _images: None)
                    bar.describe(f"{protocol}: {variant.label}")
                    prepared = True
                result = run(self._bench, variant.adapter, variant.label, protocol, phases, bar.advance)
                if result.status != "failed":
                    self.folder.save(result, key)
            if variant.label == SOURCE and result.status != "ok":
                raise ValueError(f"the frozen model cannot be run: {result.reason}")
            bar.end()
            results.append(result)
        return results


class _Bar:
    """The progress of the whole: every adapter counts alike, finished, refused or not."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total)
        self._end = 0

    def begin(self, what: str, images: int) -> None:
        self.describe(what)
        self._end += images

    def describe(self, what: str) -> None:
        self._progress.update(self._task, description=what)

    def advance(self, images: int) -> None:
        self._progress.advance(self._task, images)

    def end(self) -> None:
        self._progress.update(self._task, completed=self._end)


def _model(options: Namespace) -> Model:
    return load_model(load_settings(options.config, {"model": model_overrides(options)}).model)


def _check_domains(most: int, model: Model) -> None:
    if most < 1:
        raise ValueError(f"domains must be at least 1, got {most}")
    if most > 1 and (model.reference is None or PART not in model.reference.parts):
        raise ValueError(
            f"domains is {most}, but the model has no reference bundle with styles to tell them apart by; make it with "
            "'tta-server calibrate'"
        )


def _course(options: Namespace, dataset: Dataset) -> Course:
    images: int | None = None
    if options.images is None:
        sizes = [len(dataset.labels(Condition(name, options.severity))) for name in dataset.corruptions]
        images = min(_IMAGES, *sizes)
    elif options.images != "all":
        if not options.images.isdecimal():
            raise ValueError(f"images must be a number or 'all', got '{options.images}'")
        images = int(options.images)
    return Course(options.severity, images, options.seed, options.delta, options.clean, options.batch)


def _protocols(names: str) -> list[str]:
    if names == "all":
        return list(PROTOCOLS)
    chosen = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    unknown = [name for name in chosen if name not in PROTOCOLS]
    if unknown or not chosen:
        raise ValueError(f"unknown protocol '{(unknown or [''])[0]}'; use some of {', '.join(PROTOCOLS)}, or all")
    return chosen


def _arguments(options: Namespace, model: Model, dataset: Dataset, course: Course) -> dict[str, Any]:
    """Return all but adapter and protocol that the numbers depend on."""
    return {
        "version": __version__,
        "model": model.backbone.spec.name,
        "weights": model.backbone.spec.digest,
        "reference": _digest(model.reference),
        "data": options.data,
        "fingerprint": dataset.fingerprint,
        "severity": course.severity,
        "images": "all" if course.images is None else course.images,
        "batch": options.batch,
        "seed": course.seed,
        "delta": course.delta,
        "clean": course.clean,
        "device": model.backbone.device.type,
        **({"guard": True} if options.guard else {}),
        **({"domains": options.domains} if options.domains > 1 else {}),
        **({"skip_broken": True} if options.skip_broken else {}),
    }


def _digest(reference: Reference | None) -> str:
    if reference is None:
        return ""
    tensors = sorted(reference.tensors.items())
    return digest(*(part for name, tensor in tensors for part in (name, tensor.cpu().numpy().tobytes())))


def _notes(data: str, dataset: Dataset, course: Course) -> list[str]:
    missing = [name for name in CORRUPTIONS if name not in dataset.corruptions]
    first = CLEAN if dataset.has_clean else Condition(dataset.corruptions[0], course.severity)
    size = len(dataset.labels(first))
    count = str(size) if course.images in (None, size) else f"{course.images} of {size}"
    notes = [f"'{data}' is {dataset.layout}, {count} images a domain"]
    if missing:
        notes.append(f"without {', '.join(missing)}")
    if not dataset.has_clean:
        notes.append("without clean images ('clean.npy' or a folder 'clean'), so there are no clean phases")
    return [*notes, *dataset.remarks]
