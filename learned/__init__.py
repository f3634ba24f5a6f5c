"""Learned parts for `nsolve`: models that take the place of a classical preconditioner or search direction.

Nothing is here yet. What comes obeys the contract of `nsolve.preconditioners`: a constructor that maps a
lineax operator `A` to a lineax operator close to its inverse.
"""
