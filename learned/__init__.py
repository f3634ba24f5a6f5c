"""Learned parts for `nsolve`: models that stand in for a preconditioner or a search direction.

Nothing is here yet. What comes obeys the contract of `nsolve.preconditioners`: a constructor that
maps a lineax operator `A` to a lineax operator close to its inverse.
"""
