"""Data in any form -> rows that a pass can read, range by range, wherever the pass runs; and results for these rows.

Inputs:

source         sources of rows, and the parts of a source that one task reads
row_block      blocks of rows in memory with their aligned inputs; kinds of aligned inputs
dataset        data sets: rows and the inputs aligned with them, read in batches
input_kinds    registered kinds of input: rows of an input, and results in the form of the input
dimensions     division of an input's dimensions into samples and features
raveling       samples on a grid as rows, block by block, and results on the grid
labelled       DataArrays and Datasets of xarray
grids          arrays of more than two dimensions
grid_weights   weights of samples on a grid
inputs         conversion of every input to rows, and of rows and weights to a `Dataset`

Kinds of source:

arrays         NumPy arrays and memory maps
frames         data frames of dask
tables         tables in memory: data frames, Arrow tables, tables of astropy; columns of weights
structured     arrays of records, whose fields are the features
dask_blocks    dask arrays
task_graphs    small graphs of tasks, split and evaluated without a scheduler
detached       rows in memory as separate tasks, sent to a cluster once
store          Zarr arrays and groups at paths and URLs
files          Parquet, CSV, netCDF, HDF5 and NumPy files, opened by the libraries made for them
file_kinds     addresses and kinds of such files
file_tables    tables in Parquet and CSV files
file_arrays    arrays in netCDF, HDF5 and NumPy files
file_contents  contents of such files, as records
addresses      paths and URLs of stores, and what of them may be shown
locations      places of stores: paths, URLs with options, and open stores
stored_rows    Zarr arrays as sources: a missing chunk is an error that names the chunk
stored_grids   Zarr arrays and HDF5 datasets of more than two dimensions
regions        stored arrays of any number of dimensions as lazy blocks
ome            OME-Zarr images: array of the highest resolution, names of axes
hdf5           datasets of HDF5 files as sources
encoding       attributes that define how stored numbers become values

Checks of what is read:

store_checks   checks of a store's declarations before memory is allocated for the store
row_checks     checks of values and weights: finite, not negative, with a usable sum; incomplete rows
checksum       checksums of the rows of a pass, compared from one pass to the next
blosc          check of the length of chunks that Blosc compressed
retry          repetition of reads that failed
forks          state of forked child processes, which have no threads and inherit held locks
failures       errors as users see them: short, without the library's frames

Counts and memory of what is read:

reading        bytes that a pass has read, and the workers that hold its rows
row_cache      rows that are kept in memory for the next passes of a fit

Choices of rows:

row_sample     samples of rows, drawn by row number and weight
held_out       held-out rows, chosen by row number and seed

Results:

output         results with one entry for each row, lazy for lazy rows
write          new Zarr stores, written whole or not at all
store_outputs  new groups in storage that cannot rename
output_locks   one writer for each new store, and removal of what dead writers left
row_arrays     results for every row, written into a new store chunk by chunk
grid_arrays    results for samples on a grid, written region by region with coordinates
"""
