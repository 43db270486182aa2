"""Compare states bit for bit."""

from tta_server.adapters import State


def bits(state: State) -> dict[str, bytes]:
    """Return the exact content of a state, for bitwise comparison."""
    return {name: tensor.detach().cpu().contiguous().numpy().tobytes() for name, tensor in state.items()}
