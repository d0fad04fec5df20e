"""Algorithms made of passes.

folds           what a pass computes: the E-step, the score
predictions     results for each row: one evaluator, and the pass that writes them
sweep           E-steps over a data set, as many as are asked for in one reading
em              expectation-maximisation: one start on its way up, and the loop that takes several to their ends
initialization  parameters to begin with, from a sample of rows in memory
sampling        starts on samples in memory, the best of which goes on to all data
candidate       what is to be fitted, and where a fit ended
survey          facts that the first E-step needs: count, mean, scale, a sample; the pass that finds them
weight_survey   the pass over the weights, where rows are drawn by them
first_pass      the passes before the first E-step, for one mixture or several
fit             survey, starts, the best of them
plan            what a fit will do and take
history         what it did, pass by pass
events          what it tells while it runs
"""
