"""What the kernels' files take from numba.

Without it, or with `NSOLVE_KERNELS=off`, these are stand-ins: the kernels stay plain functions that nobody
calls.
"""

from typing import Any

import numpy as np

from .. import _ffi

#: Of sparsity patterns. Unsigned, since numba would test signed indices for counting from the end.
INDEX = np.uint32


def _as_it_is(function: Any) -> Any:
    return function


compiled: Any = _as_it_is
handler: Any = _as_it_is
answers_metadata: Any = None
word: Any = None
array: Any = None

if _ffi.usable():
    try:
        from . import _frame
    except Exception as error:  # whatever a broken installation raises
        _ffi.give_up("numba, which compiles the kernels, cannot be imported", error)
    else:
        compiled, handler = _frame.compiled, _frame.handler
        answers_metadata, word, array = _frame.answers_metadata, _frame.word, _frame.array
