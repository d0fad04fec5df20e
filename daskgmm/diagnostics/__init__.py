"""What people look at: consumers of events, and pictures.

verbose   lines on standard output, as scikit-learn prints them
"""
