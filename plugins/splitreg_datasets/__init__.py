"""Readers of the usual dataset layouts."""
