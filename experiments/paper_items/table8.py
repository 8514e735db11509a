"""Table 8: Table 3 for a second language pair (Multi30k in the other direction, or Tatoeba)."""

import sys

from experiments.paper_items import table3
from experiments.paper_items.correlation import beta_of
from experiments.paper_items.item import Item, main
from experiments.paper_items.runs import Library


def make(library: Library) -> Item:
    return table3.make(
        library.at_beta(beta_of("table8")), "table8", "Table 8: proxy inputs, second language pair"
    )


if __name__ == "__main__":
    sys.exit(main(make))
