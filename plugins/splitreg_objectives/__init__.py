"""Objectives: combine the losses of several heads."""
