"""Checks of a released model's folder against what is recorded for its release."""
