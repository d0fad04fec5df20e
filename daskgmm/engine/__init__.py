"""Passes over a data set: one interface, an engine without Dask that specifies it, and one on Dask.

A pass folds the rows: it evaluates fixed *leaves* (row ranges that follow from the row number alone), and adds their
values in a left-aligned pairwise tree. Both are independent of how the data are chunked and how the work is divided, so
the result is the same to the last bit for every chunking, batch size, number of workers and order of execution.

Whatever the engine:

interface           engines: passes, counted and announced
fold                folds: the value that a pass computes, and its costs
tree                leaves, fragments of leaves, and the canonical tree
combined_fold       several folds in one reading of the rows
plain               the specification: a pass in the calling thread, without Dask
few_rows            passes over a few rows in memory: threads share the leaves, without a graph
events              events of a running pass
blas                one BLAS thread for each task
environment         software and kind of processor, on which last bits depend
probe               checksums of a few rows, to tell one data set from another

On Dask:

run                 each pass as a graph of tasks
graph               a data set and a fold -> a plain graph of tasks: batches, then merges, then one root
memory              memory of a task, and room for it on the workers
placement           caches of rows on workers, and tasks that prefer the worker that has their rows
scheduler           interface of schedulers, and those in this process
scheduler_choice    choice of a scheduler, by the user or from the surroundings
remote              a cluster, which may lose workers and its scheduler
connection          a client of a cluster's scheduler, replaced when the scheduler comes back
holdings            tasks that are submitted once, for many passes
seceding            drivers that are themselves tasks of the cluster
report              reports of finished tasks to the driver
environment_report  reports of workers whose software or processor differs from the driver's
cluster             worker processes on this machine
encryption          advice where a cluster's connections are encrypted
main_guard          scripts that worker processes cannot import
malloc              reuse of the memory of rows
"""
