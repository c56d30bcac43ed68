"""Decisions: what a written model will be. Pure functions; no input, no output, no threads."""
