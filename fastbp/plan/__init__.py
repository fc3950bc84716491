"""Plans: what a network becomes for one batch size, dtype and purpose."""

from fastbp.plan.builder import build_plan, passes_of
from fastbp.plan.plan import Geometry, Plan, Round, Slab, Step, Tensor, Tile

__all__ = ["Geometry", "Plan", "Round", "Slab", "Step", "Tensor", "Tile", "build_plan", "passes_of"]
