"""Mixtures with scikit-learn's interface.

gaussian_mixture   `GaussianMixture`: maximum likelihood
bayesian_mixture   `BayesianGaussianMixture`: variational inference
selection          `select`: a comparison of several mixtures of the same data
selection_table    table of the candidates of a selection, the best candidate, and warnings about their order
grid               validated arguments of `select`: candidates and criterion
base               base class of both mixtures: fit, plan, save
predictions        base class with the predictions and scores of a fitted mixture
accepted_data      data that an estimator is given: checked, with features recorded or compared
outliers           base class with the log-density below which rows are outliers
explicit           base class of `GaussianMixture`: models of given parameters, marginals and conditionals
fit_callbacks      scikit-learn's own callbacks
conversion         conversion to scikit-learn's classes, and back
features           choices of features by position or name
model              base class without data: constructor parameters, fitted attributes, sampling
attributes         validation of fitted attributes, and a cache of parameters and kernels computed from them
validation         validation of parameters that depend on each other or on the data
layouts            dimensions of the features: those that a caller names, and those of the fit
checkpointing      the parameters ``checkpoint`` and ``resume``, and the settings that a checkpoint stores
labelled_parameters  parameters of a mixture as an xarray Dataset
model_kinds        registry of the classes that model files and checkpoints can hold
saving             storage of a fitted estimator in a model file
loading            restoration of a fitted estimator from a model file
model_record       a fitted estimator as a record of JSON values
"""
