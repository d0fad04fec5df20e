"""A model as a Zarr group with versioned attributes: nothing in it is ever executed, and nothing in it is believed.

::

    model.zarr/
      attributes["daskgmm"]   format, format_version, daskgmm_version, library_versions (of who wrote it),
                              environment (of who fitted it), origin (date and data of the fit), estimator,
                              parameters (the constructor's), fitted (what is no array),
                              checksums (SHA-256 of every array, and of the rest of these attributes)
      weights, means, covariances, precisions_cholesky     float64, each one uncompressed chunk
      weights_init, means_init, precisions_init            the same, where the constructor was given them

A `BayesianGaussianMixture` has weight_concentration, mean_precision and degrees_of_freedom in the place of weights, the
priors that were used as prior_weight_concentration and so on, and mean_prior and covariance_prior where the constructor
was given them. `daskgmm.core.state_arrays` holds the list.

Arrays are stored without compression, so that the size of a file tells whether the shape it declares can be true before
anything is allocated.

A file holds records, and no class: estimators are made of them in `daskgmm.estimators`.

layout       what reading and writing a model have in common
writing      a record of a model -> a file
reading      a file -> a record of a model
stored_group  a group that claims to be ours, and is not believed
packed       many arrays in one
packing      the state of a fit as values and arrays, and back
checkpoint   what a fit needs to go on, kept after every pass
"""
