"""Janus-Pro."""
