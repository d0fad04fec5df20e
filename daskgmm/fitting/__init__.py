"""Algorithms made of passes.

folds           folds of a fit's passes: the E-step, the score
predictions     results for each row: one evaluator, and the pass that writes them
estep_pass      E-steps over a data set, as many as are requested in one reading
em              expectation-maximisation: a start as a value, the step from one to the next, the loop over several
initialization  parameters to begin with, from a sample of rows in memory
sampling        starts on nested samples in memory, the best of which goes on to all data
low_density_rows  the rows that a mixture explains worst, kept by an E-step
relocation      components moved to clusters of such rows
pruning         information criteria, and starts that can no longer have the lowest
fit_spec        what is to be fitted, and the result
fit_state       the state of a fit between two passes: what a checkpoint holds
survey          facts that the first E-step needs: count, mean, scale, a sample; the pass that finds them
weight_survey   the pass over the weights, where rows are drawn by them
first_pass      the passes before the first E-step, for one mixture or several
mixture_fit     the fit of one mixture: its starts, and the best of them
fit             fits of several mixtures, which share passes
notes           warnings of a fit
plan            what a fit will do and take
history         what it did, pass by pass
events          what it tells while it runs
origin          data and date of a fit
"""
