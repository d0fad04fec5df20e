"""What people look at: consumers of events, and pictures.

verbose    lines on standard output, as scikit-learn prints them
progress   a bar on standard error
summary    what a model or a store is, as a record for programs and as tables for people
"""
