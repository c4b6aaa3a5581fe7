"""Readers of the usual dataset layouts, and procedural scenes that need no files."""
