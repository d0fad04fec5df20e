"""A model as a Zarr group with versioned attributes: nothing in it is ever executed, and nothing in it is believed.

::

    model.zarr/
      attributes["daskgmm"]   format, format_version, daskgmm_version, library_versions, estimator,
                              parameters (the constructor's), fitted (what is no array),
                              checksums (SHA-256 of every array, and of the rest of these attributes)
      weights, means, covariances, precisions_cholesky     float64, each one uncompressed chunk
      weights_init, means_init, precisions_init            the same, where the constructor was given them

Arrays are stored without compression, so that the size of a file tells whether the shape it declares can be true before
anything is allocated.
"""

from .reading import load
from .writing import save

__all__ = ["load", "save"]
