"""Algorithms made of passes over the data.

fit_spec          specification of a fit, and its result
survey            the survey pass: count, mean, scale and a sample of the rows, for the first E-step
weight_survey     the pass over the sample weights, for samples drawn by weight
first_pass        the passes before the first E-step, for one mixture or several
initialization    initial statistics of a start, from a sample of rows in memory
folds             folds of the passes of a fit: the E-step, the score
estep_pass        all requested E-steps in one reading of a data set
em_start          a start as a value
em                expectation-maximisation: `advance`, and the loop over several starts
low_density_rows  the rows with the lowest log-densities, kept by an E-step
relocation        moves of components to rare clusters among these rows
samples           samples of a sample, and E-steps over a sample
sample_steps      E-steps over a sample outside a run of starts, and their record
sample_starts     starts on samples in memory: their context, and EM on a sample
nested_samples    starts on nested samples, of which the best goes on to all data
tilted_sample     the tilted likelihood of a sample in memory
start_search      the search for a start on small samples
searched_starts   starts by a search
shared_search     one search for the starts of several mixtures
pruning           information criteria, and the pruning of starts that can no longer reach the lowest
comparison        mixtures that need another start, or more iterations, after a comparison of all
growth            starts from a smaller mixture
mixture_fit       the fit of one mixture: its starts, and the best start
fit               fits of several mixtures that share passes
fit_state         the state of a fit between two passes, which a checkpoint holds
predictions       labels, responsibilities and densities of rows: one evaluator, and the pass that writes them
lazy_samples      rows drawn from a mixture as lazy arrays
density_quantile  an exact quantile of the log-densities of all rows
regression        means of some features of every row, given the others
plan              passes and memory of a fit, planned before any row is read
history           records of the passes of a fit
events            events of a running fit
notes             warnings of a fit
origin            data and date of a fit
"""
