"""Displays for people: printed lines, a progress bar, tables and pictures.

verbose          listener that prints lines on standard output, as scikit-learn does
progress         listener that shows a progress bar on standard error
digits           numbers of digits for log-likelihoods and information criteria
selection_view   comparison of several mixtures, as a table and as a picture
summary          records of models, stores and checkpoints as tables
"""
