"""Mixtures with scikit-learn's interface.

gaussian_mixture   maximum likelihood
bayesian_mixture   variational inference
selection          `select`: several mixtures of the same data, compared
grid               the candidates of a selection, and what decides between them
base               what both mixtures do with data: fit, predict, score
model              parameters and attributes, and what follows from them without data
attributes         attributes as arrays, checked; what was computed from them
validation         parameters that depend on each other or on the data
rows               what a fitted mixture says of each row
checkpointing      the parameters checkpoint and resume; settings of estimators
model_kinds        classes that model files and checkpoints can hold
saving             a fitted estimator -> the record that a file holds
loading            a file -> a fitted estimator
model_record       a fitted estimator as a record for programs
"""
