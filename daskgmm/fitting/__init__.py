"""Algorithms made of passes.

folds           what a pass computes: the E-step, the score
em              expectation-maximisation, the loop and its stopping rule
initialization  parameters to begin with, from a sample of rows in memory
fit             survey, starts, the best of them
events          what a fit tells while it runs
"""
