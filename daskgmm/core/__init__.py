"""The mathematics of a Gaussian mixture on NumPy arrays, without Dask, Zarr or scikit-learn.

A Gaussian mixture is an exponential family: with T(x) = [vech(x xᵀ), x, 1] every log-density is a dot product
θ_k · T(x). One block's E-step is therefore one matrix product, its sufficient statistics are a second one, and the
statistics of different blocks add. The modules, in reading order:

structure           covariance structures: a kind of matrix, shared by the components or not
matrices            the three kinds of matrix: general, diagonal, one variance
triangle            packed symmetric matrices and Cholesky factors
covariance          the covariance structures by name
mixture             weights, means and covariances as one frozen value; sampling
drawing             rows of a mixture drawn by row number
conditioning        marginal and conditional distributions of a mixture
statistics          the sufficient statistics, a commutative monoid
row_blocks          lengths of blocks of rows, and views of scratch arrays for them
whitening           parameters, scratch arrays and sums of loops over whitened residuals
elementwise         the loops of an E-step: their interface, and NumPy's form
compiled_loops      loops over a block that compiled kernels share
compiled_whitening  the loops over whitened residuals of general matrices, compiled by numba
compiled_diagonal   the loops over rows under diagonal covariances, compiled by numba
compiled            all loops compiled by numba
kernel              the interface of E-step kernels; results for each row
quadratic           the kernel for many components: two matrix products on features
whitened            the kernel for few components: whitened residuals of all rows
residual            the precise kernel for any structure: whitened residuals of pairs that matter
kernel_costs        the time of a row in each kernel, from the shape of the mixture
kernel_choice       the choice of the cheapest kernel that is accurate enough, and of its loops
estimation          the interface of M-steps
maximum_likelihood  the M-step from statistics to parameters
reseeding           new components in place of collapsed and empty ones
concentration       distributions over the weights
variational         the M-step from statistics to a posterior distribution of the parameters
merging             merging of components at the least cost
splitting           splitting of components into two
coordinates         differences between mixtures as vectors
acceleration        quasi-Newton proposals of the next E-step
tilting             proposals by the tilted likelihood of a sample
coincidence         groups of nearly equal components
validity            checks of the arrays of a mixture
state_arrays        conversion of states to named arrays, and back
"""
