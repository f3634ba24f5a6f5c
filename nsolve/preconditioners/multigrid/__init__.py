"""Multigrid: levels made from a stencil (`geometric`), and one cycle that runs on them (`cycle`)."""

from .geometric import Multigrid as Multigrid
from .geometric import MultigridInverse as MultigridInverse
