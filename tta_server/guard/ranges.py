"""What no state can be, whoever made it: numbers out of every range."""

from tta_server.adapters import State
from tta_server.guard.verdict import Finding

_MOST = 1e8
"""Over the largest value that the state starts from, or 1: far beyond what steps reach, and its square is finite."""


def unsound(state: State, initial: State) -> Finding | None:
    """Return what is wrong with the numbers of a state, or None.

    Args:
        state: As its adapter lays it out.
        initial: The state that a stream starts from.
    """
    for name, tensor in state.items():
        if not tensor.numel():
            continue
        if not bool(tensor.isfinite().all()):
            reason = f"'{name}' holds values that are not finite; export a sound one"
            return Finding("reject", "not_finite", reason)
        most = _MOST * max(1.0, float(initial[name].double().abs().max()))
        least, largest = float(tensor.double().min()), float(tensor.double().max())
        if max(-least, largest) > most and tensor.is_floating_point():
            return Finding(
                "reject", "not_finite", f"'{name}' holds {max(-least, largest):.2g}, expected at most {most:.2g}"
            )
        if least < 0 and _is_square(name):
            return Finding("reject", "not_finite", f"'{name}' holds {least:.2g}, and a variance is never below 0")
    return None


def _is_square(name: str) -> bool:
    return name.endswith(".running_var") or name.startswith("adam_square/")
