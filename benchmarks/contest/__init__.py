"""Gaussian mixtures by EM, fitted by daskgmm and by its peers to the same rows from the same start.

`problem` makes rows and starts, `contestants` says how each peer is used, `child` runs one of them in a process of its
own, `measure` starts such processes and ends those that take too long or too much memory, and `report` and `plots`
turn measurements into tables and pictures. ``benchmarks/peers.py`` is the command.
"""
