"""What others raise, in one line."""

import pytest
import torch

from tta_server.models.reason import reason

SAID = """The following operation failed in the TorchScript interpreter.
Traceback of TorchScript, serialized code (most recent call last):
  File "code/__torch__.py", line 9, in forward
    ops.prim.RaiseException("RuntimeError: of the code", "builtins.RuntimeError")
    ~~~~~~~~~~~~~~~~~~~~~~~ <--- HERE
/torch/jit/_trace.py(707): _trace_impl
"""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("one\n  and two"), "RuntimeError: one and two"),
        (RuntimeError(f"{SAID}RuntimeError: Input type\n"), "RuntimeError: Input type"),
        (torch.jit.Error(f"{SAID}builtins.RuntimeError: only two\nimages"), "builtins.RuntimeError: only two images"),
    ],
)
def test_it_is_one_line_without_the_tracebacks_of_an_interpreter(error, said):
    assert reason(error) == said
    assert reason(error, 5) == said[:5]


def test_what_an_interpreter_says_in_another_form_is_told_whole():
    assert reason(RuntimeError("failed in the TorchScript interpreter.\nso")) == (
        "RuntimeError: failed in the TorchScript interpreter. so"
    )
