"""Scaffolds: new plugin packages from templates."""

from splitreg.scaffold.plugin import NEW_KINDS, new_plugin

__all__ = ["NEW_KINDS", "new_plugin"]
