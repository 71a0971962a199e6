"""Thin ZenML wrappers: load what a step needs, call one library function, log metadata, return."""
