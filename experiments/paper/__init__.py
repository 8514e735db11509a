"""The paper's tables as they are printed, to compare with and to test against.

    table(2).numbers("bleu")          # array([11.79, 20.87, …])
    table(2).texts("model")           # ("Raw Data", "KD", …)
    objective(3, bleu="bleu_sample")  # L_NAT, L̂_target, L_input and BLEU of every row, for the estimators

Source: On the Learning of Non-Autoregressive Transformers (Huang et al., ICML 2022). A table is a file
`table<number>.csv`; its first line names it and says what comes from its caption or from the text.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mple.checks import UserError, one_of
from mple.estimator.mple_loss import MpleLoss, MpleTable

FOLDER = Path(__file__).parent
TABLES = tuple(sorted(int(path.stem.removeprefix("table")) for path in FOLDER.glob("table*.csv")))


@dataclass(frozen=True)
class PaperTable:
    """One table: `caption` is the file's first line, a row maps column names to the printed text."""

    number: int
    caption: str
    rows: tuple[Mapping[str, str], ...]

    def texts(self, column: str) -> tuple[str, ...]:
        """A column as printed.

        Raises:
            UserError: no such column.
        """
        one_of(f"column of table {self.number}", column, self.rows[0])
        return tuple(row[column] for row in self.rows)

    def numbers(self, column: str) -> Float[np.ndarray, "rows"]:
        """A column of numbers; nan where the paper gives none.

        Raises:
            UserError: no such column, or it holds something else.
        """
        texts = self.texts(column)
        try:
            return np.array([float(text) if text else np.nan for text in texts])
        except ValueError as error:
            raise UserError(f"column {column} of table {self.number} must hold numbers; {error}") from None


def table(number: int) -> PaperTable:
    """Table `number` of the paper.

    Raises:
        UserError: the table is not here.
    """
    if number not in TABLES:
        raise UserError(f"table must be one of {', '.join(map(str, TABLES))}; got {number}")
    with open(FOLDER / f"table{number}.csv", encoding="utf-8", newline="") as file:
        caption = next(file).removeprefix("#").strip()
        return PaperTable(number, caption, tuple(csv.DictReader(file, strict=True)))


def objective(number: int, bleu: str = "bleu") -> MpleTable:
    """Table 2, 3, 7 or 8 as parts of L̂_MPLE; S̄ is L̂_target / −β, with the β of the table.

    bleu: the column to compare with; tables 3 and 8 have `bleu_sample` and `bleu_default`.
    """
    found = table(number)
    similarity = found.numbers("target_loss") / -found.numbers("beta")
    columns = (found.numbers("nat_loss"), similarity, found.numbers(bleu), found.numbers("input_loss"))
    values = np.stack(columns, 1).tolist()
    return MpleTable(tuple(MpleLoss(n, *v) for n, v in zip(found.texts("model"), values, strict=True)))
