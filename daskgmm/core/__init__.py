"""The mathematics of a Gaussian mixture on NumPy arrays; it knows nothing of Dask, Zarr or scikit-learn.

A Gaussian mixture is an exponential family: with T(x) = [vech(x xᵀ), x, 1] every log-density is a dot product
θ_k · T(x). One block's E-step is therefore one matrix product, its sufficient statistics are a second one, and the
statistics of different blocks add. The modules follow that sentence:

covariance          what a component's covariance may look like: full, tied, diag, spherical
mixture             weights, means and covariances as one frozen value; log-densities; sampling
statistics          the sufficient statistics, a commutative monoid
kernels             rows of a block -> their statistics, in the cheapest arithmetic that is accurate enough
maximum_likelihood  statistics -> new parameters (the M-step)
"""
