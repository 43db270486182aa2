"""What a reference bundle lacks, and what that costs whoever serves with it."""

from collections.abc import Iterable, Mapping

from tta_server.adapters import Adapter
from tta_server.models import Reference
from tta_server.models.backbone import Spec

_FEATURES = "the guard cannot tell where a stream is worse than the frozen model"
_NULL = "drift scores have nothing to be compared with"

COSTS: Mapping[str, str] = {
    "style": "inputs cannot be told apart, so that what streams learn answers only if domains.max is 1",
    "statistics": "an input's own normalisation statistics replace the source's whether or not the network gains by it",
    "canary": "the guard cannot check what a stream has learnt on labelled images",
    "atc": "the guard takes answers for credible as if the frozen model were right on 95% of the source images",
    **dict.fromkeys(("histogram", "features", "confidence", "energy"), _FEATURES),
    **dict.fromkeys(("null", "null_moments"), _NULL),
    "classes": "clean images that are mostly of one class may be called drift",
}
"""Parts that the server itself uses, and what it cannot do without them."""


def lacking(reference: Reference | None, spec: Spec, methods: Iterable[Adapter]) -> dict[str, str]:
    """Return the parts that a bundle does not have, with what that costs; none that the network has no use for.

    Args:
        reference: The bundle; None lacks everything.
        spec: Of the network.
        methods: The adapters that may be asked for.
    """
    parts = reference.parts if reference else frozenset()
    costs = dict(COSTS)
    for method in methods:
        needed = {need.removeprefix("reference.") for need in method.requires if need.startswith("reference.")}
        costs |= dict.fromkeys(sorted(needed), f"adapter '{method.name}' cannot be used as it is set")
        if method.part and method.part.name not in costs:
            costs[method.part.name] = f"adapter '{method.name}' goes without it"
    useless = frozenset() if "batchnorm" in spec.capabilities else {"statistics"}
    return {part: cost for part, cost in costs.items() if part not in parts | useless}


def sentences(missing: Mapping[str, str], reasons: Mapping[str, str]) -> list[str]:
    """Return what `lacking` found as text, parts of one reason and one cost together.

    Args:
        missing: Parts and costs.
        reasons: Why parts could not be made, where that is known.
    """
    together: dict[tuple[str, str], list[str]] = {}
    for part, cost in missing.items():
        together.setdefault((reasons.get(part, ""), cost), []).append(part)
    return [
        f"no {', '.join(parts)}{f' ({reason})' if reason else ''}: {cost}" for (reason, cost), parts in together.items()
    ]


def told(reference: Reference | None, spec: Spec, methods: Iterable[Adapter], where: str = "") -> str:
    """Return what a bundle was made of, then what it lacks and what that costs, a line each.

    Args:
        reference: The bundle; None lacks everything.
        spec: Of the network.
        methods: The adapters that may be asked for.
        where: The file that would hold one, if that is known.
    """
    about = reference.about if reference else {}
    made = f"none; make one with 'tta-server calibrate'{f', as {where}' if where else ''}"
    found = f"of {about.get('images', 'some')} source images" if reference else made
    return "\n".join([found, *sentences(lacking(reference, spec, methods), about.get("left_out", {}))])
