"""The mathematics of a Gaussian mixture on NumPy arrays; it knows nothing of Dask, Zarr or scikit-learn.

A Gaussian mixture is an exponential family: with T(x) = [vech(x xᵀ), x, 1] every log-density is a dot product
θ_k · T(x). One block's E-step is therefore one matrix product, its sufficient statistics are a second one, and the
statistics of different blocks add. The modules follow that sentence:

structure           covariance structures: a kind of matrix, shared by the components or not
matrices            the three kinds of matrix: general, diagonal, one variance
covariance          the structures by their names
triangle            packed symmetric matrices and Cholesky factors
mixture             weights, means and covariances as one frozen value; log-densities; sampling
coincidence         components that are nearly equal
statistics          the sufficient statistics, a commutative monoid
elementwise         the element-wise loops of an E-step, in NumPy
compiled            the same, compiled
kernel              what an E-step kernel has to answer; log-sum-exp
quadratic           the fast kernel: two matrix products
residual            the precise kernel: whitened residuals
kernel_choice       the candidates; the cheapest of them that is accurate enough, and the loops it uses
validity            arrays that are no mixture, and why
estimation          what an M-step has to answer
maximum_likelihood  statistics -> new parameters
concentration       distributions over the weights
variational         statistics -> a posterior distribution of the parameters
state_arrays        states as named arrays, and back
"""
