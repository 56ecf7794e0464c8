"""Weights of other libraries, in and out: one module for each of their formats."""
