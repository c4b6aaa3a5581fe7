"""Dataset ``scenes``: a ray caster draws rooms with solids; every kind of label, no files."""
