"""One pass over a data set, on Dask.

A pass folds the rows: it evaluates fixed *leaves* (row ranges that follow from the row number alone), and adds their
values in a left-aligned pairwise tree. Both are independent of how the data are chunked and how the work is divided, so
the result is the same to the last bit for every chunking, batch size, number of workers and order of execution.

tree       leaves, fragments of leaves, and the canonical tree
graph      a data set and a fold -> a plain graph of tasks: batches, then merges, then one root
scheduler  where it runs: what every scheduler can do
plain      a pass over few rows in the calling thread
remote     a cluster, which may lose workers and its scheduler
holdings   tasks that are submitted once, for many passes
seceding   drivers that are tasks of the cluster that they wait for
choice     which scheduler a user means
report     how tasks tell the driver that they have finished
cluster    worker processes on this machine
main_guard scripts that worker processes cannot import
memory     what a task takes, and whether the workers have room for it
blas       one BLAS thread for each task
events     what a pass tells while it runs
run        all of it together
"""
