"""Sweeps: many edits, seeds and models in one table.

    from wanvideo_activation_editor import sweep

    found = sweep("plan.toml")            # table, intervals, contact sheet and report in the folder plan/
    found = sweep("plan.toml")            # again: only what is missing is sampled

A plan names axes; each combination is a cell. Cells are independent, so they run here, on a Ray cluster or on ComfyUI
servers; results come back to one store.
"""

from .cells import Model
from .plan import Plan, load_plan
from .running import Swept, reproduce, sweep

__all__ = ["Model", "Plan", "Swept", "load_plan", "reproduce", "sweep"]
