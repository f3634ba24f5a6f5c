"""Optimal transport: entropic, at any `epsilon`, differentiable in everything."""

from .cost_matrix import CostMatrix as CostMatrix
from .coupling import Coupling as Coupling
from .divergence import Divergence as Divergence
from .divergence import sinkhorn_divergence as sinkhorn_divergence
from .grid import Grid as Grid
from .light_bridge import LightBridge as LightBridge
from .point_cloud import PointCloud as PointCloud
from .sinkhorn import Sinkhorn as Sinkhorn
from .sinkhorn_newton import SinkhornNewton as SinkhornNewton
from .solve import Transport as Transport
from .solve import solve as solve
