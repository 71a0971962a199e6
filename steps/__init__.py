"""Thin ZenML wrappers: load what a step needs, call one library function, log metadata, return."""

from steps.runtime import materializers

__all__ = ["materializers"]
"""Importing it tells ZenML how folders are stored."""
