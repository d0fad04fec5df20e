"""Anything that a user has -> rows that a pass can read, piece by piece, wherever the pass runs.

source      sources of rows, and the parts of a source that one task reads
dataset     data sets: rows and the inputs aligned with them, read in batches
row_block   blocks of rows in memory with their aligned inputs; kinds of aligned inputs
arrays      NumPy arrays and memory maps
addresses   names of stores, and what of them may be shown to people
store_checks  checks of what a store declares about itself before anything is allocated for it
held_out    rows that are held out, chosen by number and seed
store       Zarr arrays and groups, their paths and URLs
stored_rows Zarr arrays as sources: every chunk is there, or named in an error
encoding    attributes that say how stored numbers become values
hdf5        datasets of HDF5 files as sources
structured  arrays whose fields are the features
blosc       chunks that Blosc would not notice to be cut off
retry       reads that may work when they are tried again
dask_blocks  dask arrays
task_graphs small graphs of tasks, split and evaluated without a scheduler
checksum    what a pass saw, in a few numbers, and whether the next one sees the same
detached    rows in memory as tasks of their own, sent to a cluster once
forks       forked children, in which threads and held locks are gone
failures    errors as users see them: short, without frames of the library
input_kinds  kinds of input: rows of what a user has, and results in the form of the input
inputs      the one door: whatever came -> `Dataset`
row_checks  values and weights that no pass takes: not finite, negative, without a usable sum
row_sample  samples of rows, drawn by row number and weight
output      results for every row: lazy where the rows are
write       new Zarr stores, whole or not at all
output_locks  one writer for each of them, and what dead writers left
row_arrays  chunks of results for every row in such a store
"""
