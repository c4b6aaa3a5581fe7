"""Objectives: how the losses of several heads become one."""
