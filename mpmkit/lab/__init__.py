"""What the notebooks import: colours, figures, tables, progress.

Nothing here measures. It shows what `mpmkit.measure` and `mpmkit.load` give, and imports plotly,
pandas and ipywidgets only inside the functions that need them.
"""
