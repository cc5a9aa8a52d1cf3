"""Compiled scans: a cell's torch `step` becomes source for the step and its adjoint, and that becomes machine code."""
