"""Long runs of everything that daskgmm does on a cluster, on one cluster whose workers die at random.

work     what is run again and again, and the bits that each has to give
chaos    which workers die, and how
watch    what may pile up: memory, tasks, topics, threads, descriptors, processes, files
judge    what has leaked or differed
report   the table and the picture
"""
