"""Gaussian mixture models for data that do not fit in memory."""

__version__ = "0.1.0"
