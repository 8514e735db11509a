"""Does L_MPLE rank methods as BLEU does? What Figure 5, Tables 2, 3, 7, 8 and the claims say of it.

found = points(library, table2.ROWS)
found.report(beta)             # r, its interval and p, β's curve; None with fewer than 3 methods
found.notes(beta, "BLEU")      # the same as sentences
"""

from dataclasses import dataclass

from experiments.paper_items.item import paper_row, paper_table
from experiments.paper_items.numbers import Number
from experiments.paper_items.runs import CONFIDENCE, MPLE, VANILLA, Library, Training, of_metrics, of_test
from mple.checks import UserError
from mple.estimator.correlation import CorrelationReport, ObjectiveCorrelation
from mple.estimator.mple_loss import MpleLoss, MpleTable


@dataclass(frozen=True)
class Points:
    """What `estimator=mple` found. rows: a point a method, averaged over its runs; runs: a point a run."""

    rows: tuple[MpleLoss, ...]
    runs: tuple[MpleLoss, ...] = ()

    def report(self, beta: float, over_seeds: str = "mean") -> CorrelationReport | None:
        """r of L̂_MPLE and BLEU; None with fewer than 3 methods, or where r is undefined."""
        rows = self.rows if over_seeds == "mean" else self.runs
        try:
            correlation = ObjectiveCorrelation(beta=beta, over_seeds=over_seeds)
            return correlation(MpleTable(rows)) if len(self.rows) > 2 else None
        except UserError:
            return None

    def notes(self, beta: float, bleu: str) -> list[str]:
        """r with its interval and p, over methods and over all runs, and what each part alone explains."""
        found = self.report(beta)
        if found is None:
            return [f"r needs estimator=mple of at least 3 methods; there are {len(self.rows)}"]
        notes = [
            f"r of L_MPLE and {bleu} over {found.points} methods, β {beta:g}: {found.r}, p {found.p:.3f}"
        ]
        every = self.report(beta, "points") if len(self.runs) > len(self.rows) else None
        if every is not None:
            notes.append(
                f"over all {every.points} runs {every.r}, p {every.p:.3f}: runs of one method are no "
                "independent points, so both are too sure"
            )
        explained = found.explained_percent()
        notes.append(
            "alone: "
            + ", ".join(f"{name} r {r:.3f} ({explained[name]:.0f} %)" for name, r in found.parts.items())
            + "; L_MPLE without: "
            + ", ".join(f"{name} r {r:.3f}" for name, r in found.without.items())
        )
        if "target_loss" in found.parts:
            notes.append(f"best β {found.best_beta:g}; p that pays for the search {found.p_of_best:.3f}")
        return notes


def beta_of(table: str) -> float:
    """The paper's β for a table's language pair."""
    return float(paper_row(table, "KD" if table in ("table2", "table7") else "Vanilla")["beta"])


def sampled(library: Library, training: Training) -> Number | None:
    """BLEU with input sampling. A vanilla NAT has nothing to sample: its Z never tells anything."""
    if training == VANILLA:
        return of_test(library.runs(training), "tokenised_bleu")
    return of_metrics(library.measured(training, CONFIDENCE), "sampled_tokenised_bleu")


def points(library: Library, rows: dict[str, str], is_sampled: bool = False) -> Points:
    """The methods of a table that were measured; with `is_sampled`, BLEU is that of input sampling."""
    methods: list[MpleLoss] = []
    runs: list[MpleLoss] = []
    for label, experiment in rows.items():
        training = Training(experiment)
        measured = library.measured(training, MPLE)
        default = of_test(library.runs(training), "tokenised_bleu")
        bleu = sampled(library, training) if is_sampled else default
        nat = of_metrics(measured, "nat_loss", "bits_per_token")
        similarity = of_metrics(measured, "similarity")
        given = of_metrics(measured, "input_loss", "bits_per_token") or Number({0: 0.0})
        if not (bleu and nat and similarity):
            continue
        of_seeds = [
            MpleLoss(
                *(label, nat.values[seed], similarity.values[seed], bleu.values[seed]),
                given.values.get(seed, given.mean),
            )
            for seed in sorted(nat.values.keys() & similarity.values.keys() & bleu.values.keys())
        ]
        if of_seeds:  # each number of the same runs
            methods += MpleTable(tuple(of_seeds)).averaged().rows
            runs += of_seeds
    return Points(tuple(methods), tuple(runs))


def of_paper(table: str) -> Points:
    """The paper's own points: of the tables of proxy inputs with BLEU of input sampling."""
    column = "bleu" if table in ("table2", "table7") else "bleu_sample"
    return Points(
        tuple(
            MpleLoss(
                row["model"],
                float(row["nat_loss"]),
                -float(row["target_loss"]) / float(row["beta"]),
                float(row[column]),
                float(row["input_loss"]),
            )
            for row in paper_table(table)
        )
    )
