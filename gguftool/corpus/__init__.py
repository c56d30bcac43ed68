"""Texts for calibration: which, how much of each, without duplicates, with some kept apart."""
