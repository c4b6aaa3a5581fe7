"""Samples: how they are drawn (``scenes``), changed (``transforms``) and batched (``loading``)."""
