"""Emulates a stack without a cloud: stand-ins for its platforms, and what they hold submissions to."""
