"""Wiring: which step feeds which."""
