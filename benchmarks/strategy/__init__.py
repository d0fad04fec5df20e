"""What the strategies of a fit are worth: passes over the data, and where fits end, on many data sets and seeds.

`datasets` makes the rows, `fits` runs one fit of one strategy, `against` times one beside scikit-learn's, `records`
keeps what was measured as lines of JSON, `judgement` compares strategies with plain EM, and `report` and `plots` turn
that into tables and pictures. ``benchmarks/strategies.py`` is the command.
"""
