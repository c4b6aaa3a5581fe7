"""Dataset ``scenes``: ray-cast rooms with solids, with labels of every task; needs no files."""
