"""Write the table of results in experiments/README.md from finished or recorded runs; no number by hand.

    python -m experiments.overview --outputs experiments/results/runs --data grammar
    python -m experiments.overview --outputs experiments/results/runs --data multi30k_de-en

Paper item -> command -> the paper's number / ours -> seeds, date, machine, commit: one row an item, its first
number or its BLEU. The rows replace those between `<!-- DATA -->` and `<!-- /DATA -->` of the page. Where it
has `<!-- DATA runs -->` and `<!-- /DATA runs -->`, one row a configuration is written between these: of DATA,
and of what Table 1 has beside them. What an update costs beside the vanilla NAT's is read from
results/steps_DATA.json, where that is; `python -m experiments.bench steps` has made it.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.collect import MISSING, PROXY, SELECTION, Row, collect
from experiments.paper_items import item, table1
from experiments.paper_items.item import Cell, Item
from experiments.paper_items.runs import Library, Study
from experiments.report import origin_of
from experiments.reproduce import make_all
from mple.checks import UserError
from mple.command import answered
from mple.plain import code, markdown, pipes

PAGE = Path(__file__).parent / "README.md"
HEAD = ("paper item", "command (`python -m experiments.paper_items.`…)", "number", "paper / ours", "of")

DATA = "data="
COMMON = ("data.root=", "budget=", "outputs=", "seed=", "logger=", "log_every=")
RUN_COLUMNS = {
    "updates": ("updates", ".0f"),
    "BLEU": ("tokenised_bleu", ".2f"),
    "L_NAT of T (valid)": (PROXY, ".2f"),
    "L_NAT raw (test)": ("nat_loss_raw_bits_per_token", ".2f"),
    "valid %": ("valid_rate_percent", ".1f"),
    "repeated words %": ("repetition_rate_percent", ".1f"),
    "length ratio": ("length_ratio", ".2f"),
    "minutes": ("minutes", ".1f"),
}
"""Tokenised BLEU; losses in bits per token. What no row has measured is left out."""


def main_column(one: Item) -> str:
    """BLEU where the item has it, else its first column with a number of ours."""
    columns = [
        c for c in one.columns if any(line.cells.get(c, Cell()).ours is not None for line in one.lines)
    ]
    return next((column for column in columns if column.startswith("BLEU")), columns[0])


def row(one: Item) -> list[str]:
    """The cells of an item's row."""
    column = main_column(one)
    form, numbers = one.columns[column], []
    for line in one.lines:
        cell = line.cells.get(column, Cell())
        if cell.ours is not None:
            paper = item.paper_text(cell.paper, form)
            numbers.append(f"{line.label}: {paper} / {item.ours_text(cell.ours, form)}")
    command = f"`{one.name}`" + (f" `--data {one.data}`" if one.data else "")
    made = markdown(origin_of(one.lines)) or "computed"
    return [one.title.partition(":")[0], command, column, "<br>".join(map(markdown, numbers)), made]


def table(items: Sequence[Item]) -> str:
    """The rows of all measured items, as Markdown."""
    rows = [list(HEAD), ["---"] * len(HEAD), *(row(one) for one in items if one.is_measured)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def configurations(study: Study) -> list[Row]:
    """The rows of `run_table`: of the study's data, and of the other data of Table 1 that have runs."""
    library = Library(study)
    names = dict.fromkeys([study.data, *(of.name for of in table1.datasets(library))])
    return [row for name in names if library.has(name) for row in collect(study.outputs, name)[0]]


def step_costs(page: Path, data: str) -> dict[str, str]:
    """Times the vanilla NAT's update, by experiment; none where nobody has measured it."""
    path = page.parent / "results" / f"steps_{data}.json"
    if not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {name: f"{row['times_vanilla_step']['median']:.2f}" for name, row in rows.items()}


def run_table(rows: Sequence[Row], data: str, costs: Mapping[str, str]) -> str:
    """One row a configuration, as Markdown; the command of its first seed without what all have in common,
    `data=` only for other data than `data`."""
    origin = ("machine", "date", "commit")
    columns = {name: of for name, of in RUN_COLUMNS.items() if any(row.values(of[0]) for row in rows)}
    has_choice = any(row.names(SELECTION) for row in rows)
    more = [*(["chosen %"] if has_choice else []), *(["× vanilla step"] if costs else [])]
    head = ["command", "seeds", *columns, *more, *origin]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        given = row.runs[0].texts.get("command", "").split()[2:]
        common = (DATA, *COMMON) if row.runs[0].data == data else COMMON
        command = " ".join(part for part in given if not part.startswith(common))
        seeds = ", ".join(str(run.seed) for run in row.runs)
        numbers = [row.cell(*column).removesuffix(" ± 0") for column in columns.values()]
        numbers += [markdown(row.chosen(".0f").replace(" ± 0", ""))] if has_choice else []
        is_timed = row.runs[0].data == data  # elsewhere nobody has measured it
        numbers += [costs.get(row.runs[0].experiment, MISSING) if is_timed else MISSING] if costs else []
        texts = [markdown(row.text(name)) for name in origin]
        lines.append([pipes(code(command)), seeds, *numbers, *texts])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def replaced(text: str, data: str, rows: str) -> str:
    """The page with new rows for a data set.

    Raises:
        UserError: the page has no place for them.
    """
    begin, end = f"<!-- {data} -->", f"<!-- /{data} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise UserError(f"the page must have one {begin} and {end} to write between; got none or several")
    return pattern.sub(lambda _: f"{begin}\n\n{rows}\n\n{end}", text)


@answered
def main(arguments: Sequence[str] | None = None) -> int:
    """Status 2 with one line where there is nothing to write or no place for it."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.overview", description=(__doc__ or "").splitlines()[0]
    )
    item.arguments(parser)
    parser.add_argument("--second", metavar="NAME", help="data set of Tables 7 and 8")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page (experiments/README.md)")
    options = parser.parse_args(arguments)
    study: Study = item.study(options)
    items = make_all(study, options.second)
    if not any(one.is_measured and not one.is_exact for one in items):
        raise UserError(f"no finished run of data {study.data!r} below {study.outputs}")
    text = options.page.read_text(encoding="utf-8")
    text = replaced(text, study.data, table(items))
    if f"<!-- {study.data} runs -->" in text:
        rows = run_table(configurations(study), study.data, step_costs(options.page, study.data))
        text = replaced(text, f"{study.data} runs", rows)
    options.page.write_text(text, encoding="utf-8")
    print(f"written: {options.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
