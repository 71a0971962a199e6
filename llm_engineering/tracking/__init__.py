"""Experiment tracking: Comet behind one context manager, its offline archives, and what identifies a run in it."""

from llm_engineering.tracking.comet import tracked_stage
from llm_engineering.tracking.origin import Account, Origin
from llm_engineering.tracking.tracker import Tracker

__all__ = ["Account", "Origin", "Tracker", "tracked_stage"]
