"""Compiled kernels, one file each, beside the pure JAX (on the host NumPy) that does the same without numba.

`nsolve._ffi` chooses between the two.  The files import numba: import them where they are needed.
"""
