"""Harmon."""
