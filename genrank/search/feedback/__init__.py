"""Learning from what shoppers do: a log of what was shown and clicked, and training data made from it.

`log` keeps the log, `bias` estimates which ranks shoppers look at and what clicks say once that is accounted for,
`training` makes a dataset of it, `estimates` ranks by it beside a model, `interleaving` shows two rankings in one list.
"""
