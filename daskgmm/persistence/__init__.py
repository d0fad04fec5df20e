"""Models and checkpoints as Zarr groups: nothing in a file is executed, and every field is validated before use.

A model is a Zarr group with versioned attributes:

::

    model.zarr/
      attributes["daskgmm"]   format, format_version, daskgmm_version, library_versions (of the writer),
                              environment (of the fit), origin (date and data of the fit), estimator,
                              parameters (of the constructor), fitted (fitted values other than arrays),
                              checksums (SHA-256 of every array, and of the other attributes)
      weights, means, covariances, precisions_cholesky     float64, each one uncompressed chunk
      weights_init, means_init, precisions_init            the same, if the constructor got them

A `BayesianGaussianMixture` has weight_concentration, mean_precision and degrees_of_freedom instead of weights, the
priors of the fit as prior_weight_concentration and so on, and mean_prior and covariance_prior if the constructor got
them. `daskgmm.core.state_arrays` contains the list of arrays.

Arrays are stored without compression, so that the size of a file can be compared with the declared shape before memory
is allocated.

A file contains records and no classes: `daskgmm.estimators` makes estimators of the records.

Models:

layout         records of a model, encoding of values, checksums
writing        a record of a model -> a file
stored_group   a Zarr group of daskgmm's, validated before use
reading        a file -> a record of a model

Checkpoints:

packed         many arrays as one
codec          frozen records -> values for JSON and named arrays, and back
fit_records    codecs of the records of a fit, and checks of the records against the fit's mixtures
checkpoint     all that a fit needs to be resumed, stored after every pass
"""
