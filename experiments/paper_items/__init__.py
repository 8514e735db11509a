"""One script for each table and figure of the paper: reads finished runs, never trains.

    python -m experiments.paper_items.table2 --data multi30k_de-en

`runs.py` finds runs and names the missing ones, `numbers.py` is a number with its spread, `item.py` is what a
script returns and how it is shown, `plots.py` draws, `references.py` says what L_target is measured against,
`claims.py` judges the paper's claims by these numbers.
"""

ITEMS = (
    *("figure2", "figure9", "table10", "table1", "table5", "figure1", "figure5", "table2", "figure6"),
    *("table3", "figure7", "table4", "figure8", "table7", "table8"),
)
"""The modules, in the order of the report."""
