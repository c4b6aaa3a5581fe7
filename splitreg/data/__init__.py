"""Samples: transforms (``transforms``), batches (``batches``) and loading (``loading``)."""
