"""Learned parts for `nsolve`: training, and models that take the place of classical parts."""

from .checkpoint import load as load
from .checkpoint import save as save
from .fit import fit as fit
from .zoo import load_pretrained as load_pretrained
from .zoo import pretrained as pretrained
