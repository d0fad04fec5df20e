"""Gaussian mixtures by EM, fitted by daskgmm and by its peers to the same rows from the same start.

`problem` makes rows and starts, `contestants` says how each peer is used, and `child` runs one of them in a process of
its own. ``benchmarks/peers.py`` is the command.
"""
