"""Table 7: Table 2 for a second language pair (Multi30k in the other direction, or Tatoeba)."""

import sys

from experiments.paper_items import table2
from experiments.paper_items.correlation import beta_of
from experiments.paper_items.item import Item, main
from experiments.paper_items.runs import Library


def make(library: Library) -> Item:
    return table2.make(
        library.at_beta(beta_of("table7")), "table7", "Table 7: proxy targets, second language pair"
    )


if __name__ == "__main__":
    sys.exit(main(make))
