"""`cm3 plan`: the work that a run would find left, by asking the caches; no model is loaded, nothing is published."""

from flows.plan.work import plan

__all__ = ["plan"]
