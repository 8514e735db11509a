"""One HTML page with every table and figure, the paper's numbers beside ours, and a verdict on each claim.

    python -m experiments.report --data grammar     # outputs/paper/report.html and report_grammar.md

The page needs nothing else: no script, no font, no file beside it. The Markdown says the same for a
repository; its pictures are the items' files beside it. Both read finished runs only; the page lists
what is missing.
"""

import argparse
import html
import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from experiments.collect import MISSING
from experiments.paper_items import claims, item, plots
from experiments.paper_items.claims import FAILS, HOLDS, OPEN, Verdict
from experiments.paper_items.item import Cell, Item, Line
from experiments.paper_items.runs import Library, Study
from mple.checks import UserError
from mple.command import answered
from mple.plain import markdown as escaped

MARKS = {HOLDS: ("holds", "✓"), FAILS: ("fails", "✗"), OPEN: ("open", "?")}

RULE = (
    "Each part of a claim is a number that the claim says is above 0. It holds where its 95% interval lies "
    "above 0, and does not where the interval lies below; otherwise nothing can be told. A claim holds if "
    "all of its parts do, and does not if any does not. The interval is over seeds where there are at least "
    "two, otherwise over the test sentences of one seed, which says whether these two models differ and not "
    "whether the methods do."
)
NUMBERS = (
    "The paper's numbers are of WMT14 En-De (WMT17 Zh-En in Tables 7 and 8) and of models many times larger: "
    "compare orders and signs, not values. Ours are means, ± the sample standard deviation over n seeds; "
    f"without ± it is one seed. {MISSING} is not measured."
)

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fbfbf9; --panel: #ffffff; --text: #22252a; --soft: #636973; --line: #dfe1e4; --accent: #2866b8;
  --holds: #17754f; --fails: #b3402e; --open: #7a6312;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #15171b; --panel: #1c1f25; --text: #e3e5e9; --soft: #9ca3ae; --line: #343941; --accent: #7db1f5;
    --holds: #5cc79b; --fails: #f08a76; --open: #d9bd5b;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 0 0 .35rem; line-height: 1.3; }
p { margin: .35rem 0 .8rem; max-width: 46rem; }
.lead { color: var(--soft); }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: .25rem .9rem; margin: 1rem 0 2rem; font-size: .9rem; }
section { background: var(--panel); border: 1px solid var(--line); border-radius: 10px;
  padding: 1.25rem; margin: 0 0 1.25rem; }
.scroll { overflow-x: auto; margin: .75rem -1.25rem; padding: 0 1.25rem; }
table { border-collapse: collapse; font-size: .875rem; min-width: 100%; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap;
  vertical-align: top; font-variant-numeric: tabular-nums; }
th { font-weight: 600; }
thead th { color: var(--soft); }
th:first-child { text-align: left; padding-left: 0; }
tbody th { font-weight: 400; }
.paper { color: var(--soft); }
.absent, .absent td { color: var(--soft); }
.origin { font-size: .8rem; color: var(--soft); }
figure { margin: 0; }
figure svg { display: block; height: auto; max-width: none; }
.verdict { border-top: 1px solid var(--line); padding: .9rem 0; }
.verdict:first-of-type { border-top: 0; }
.verdict h3 { font-size: 1rem; font-weight: 600; margin: 0; display: flex; gap: .6rem;
  align-items: baseline; }
.badge { flex: none; font-size: .8rem; font-weight: 600; border: 1px solid; border-radius: 999px;
  padding: 0 .55rem; min-width: 7.6rem; text-align: center; }
.holds { color: var(--holds); } .fails { color: var(--fails); } .open { color: var(--open); }
.verdict ul { margin: .4rem 0 0; padding-left: 1.2rem; font-size: .9rem; }
.verdict li { overflow-wrap: anywhere; }
details { margin-top: .5rem; font-size: .9rem; }
summary { cursor: pointer; color: var(--accent); }
pre { overflow-x: auto; font-size: .8rem; line-height: 1.45; background: var(--ground); padding: .75rem;
  border-radius: 6px; border: 1px solid var(--line); }
code { font-size: .9em; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  main { padding: 1.25rem .75rem 3rem; }
  section { padding: 1rem; border-radius: 8px; }
  .scroll { margin: .75rem -1rem; padding: 0 1rem; }
  .verdict h3 { flex-direction: column; gap: .35rem; }
}
"""


def table_html(one: Item) -> str:
    """The item's table in a container that scrolls by itself; the paper's columns where it has numbers."""
    shown = [column for column in one.columns if any(column in line.cells for line in one.lines)]
    papers = {
        column: any(line.cells.get(column, Cell()).paper is not None for line in one.lines)
        for column in shown
    }
    head, second = ["<th></th>"], ["<th></th>"]
    for column in shown:
        head.append(f'<th colspan="{1 + papers[column]}">{html.escape(column)}</th>')
        second += ['<th class="paper">paper</th>'] * papers[column] + ["<th>ours</th>"]
    rows = []
    for line in one.lines:
        cells = [f"<th>{html.escape(line.label)}</th>"]
        for column in shown:
            cell, form = line.cells.get(column, Cell()), one.columns[column]
            if papers[column]:
                cells.append(f'<td class="paper">{item.paper_text(cell.paper, form)}</td>')
            cells.append(f"<td>{html.escape(item.ours_text(cell.ours, form))}</td>")
        rows.append(f"<tr{'' if line.is_measured else ' class=absent'}>{''.join(cells)}</tr>")
    first = f"<tr>{''.join(head)}</tr>" + (f"<tr>{''.join(second)}</tr>" if any(papers.values()) else "")
    table = f"<table><thead>{first}</thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{table}</div>'


def figure_html(one: Item) -> str:
    if one.figure is None or not one.is_measured:
        return ""
    file = io.StringIO()
    with plots.styled():
        one.figure().savefig(file, format="svg", metadata={"Date": None})
    svg = plots.inline(file.getvalue(), one.stem)
    label = html.escape(one.title, quote=True)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return f'<figure class="scroll" tabindex="0">{svg}</figure>'


def origin_of(lines: Iterable[Line]) -> str:
    """Seeds, machine, date and commit of the runs behind a table; empty where there are none."""
    runs = [run for line in lines for run in line.runs]
    if not runs:
        return ""
    parts = [f"seeds {', '.join(map(str, sorted({run.seed for run in runs})))}"]
    for name in ("date", "machine", "commit"):
        values = dict.fromkeys(str(run.record[name]) for run in runs if run.record.get(name))
        parts += [f"{name} {', '.join(values)}"] if values else []
    return "; ".join(parts)


def missing_html(commands: Sequence[str]) -> str:
    if not commands:
        return ""
    lines = html.escape("\n".join(commands))
    return f"<details><summary>{len(commands)} commands are missing</summary><pre>{lines}</pre></details>"


def item_html(one: Item) -> str:
    notes = "".join(f'<p class="origin">{html.escape(note)}</p>' for note in one.notes)
    origin = f'<p class="origin">{html.escape(origin_of(one.lines))}</p>' if one.lines else ""
    return (
        f'<section id="{one.name}"><h2>{html.escape(one.title)}</h2>'
        f'<p class="lead">{html.escape(one.about)}</p>{table_html(one)}{figure_html(one)}{notes}'
        f"{origin}{missing_html([str(entry) for entry in one.missing])}</section>"
    )


def verdict_html(verdict: Verdict) -> str:
    kind, mark = MARKS[verdict.outcome]
    parts = "".join(
        f'<li><span class="{MARKS[part.outcome][0]}">{MARKS[part.outcome][1]}</span> '
        f"{html.escape(part.text)}: {html.escape(part.numbers)}</li>"
        for part in verdict.parts
    )
    caveat = f'<p class="origin">{html.escape(verdict.caveat)}</p>' if verdict.caveat else ""
    return (
        f'<div class="verdict"><h3><span class="badge {kind}">{mark} {verdict.outcome}</span>'
        f"<span>{html.escape(verdict.claim)} ({html.escape(verdict.source)})</span></h3>"
        f"<ul>{parts}</ul>{caveat}</div>"
    )


def only_of_claims(items: Sequence[Item], library: Library) -> list[str]:
    """The commands that the claims lack and no item does."""
    of_items = {str(entry) for one in items for entry in one.missing}
    return [str(entry) for entry in library.missing if str(entry) not in of_items]


def page(study: Study, items: Sequence[Item], verdicts: Sequence[Verdict], more: Sequence[str]) -> str:
    """The whole page. more: commands that only the claims lack."""
    links = "".join(f'<a href="#{one.name}">{html.escape(one.title.partition(":")[0])}</a>' for one in items)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>On the Learning of Non-Autoregressive Transformers, on {html.escape(study.data)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>On the Learning of Non-Autoregressive Transformers, in miniature</h1>
<p class="lead">The paper's tables and figures on <code>{html.escape(study.data)}</code>.
{html.escape(NUMBERS)}</p>
<nav><a href="#claims">Claims</a>{links}</nav>
<section id="claims"><h2>The paper's claims at this scale: {tally(verdicts)}</h2>
<p class="lead">{html.escape(RULE)}</p>
{"".join(map(verdict_html, verdicts))}
{missing_html(more)}
</section>
{"".join(map(item_html, items))}
</main>
</body>
</html>
"""


def tally(verdicts: Sequence[Verdict]) -> str:
    counted = [sum(verdict.outcome == outcome for verdict in verdicts) for outcome in (HOLDS, FAILS, OPEN)]
    return "{} hold, {} do not, {} cannot be told".format(*counted)


def table_markdown(one: Item) -> list[str]:
    """The item's table; a column has the paper's numbers where the paper has any."""
    shown = [column for column in one.columns if any(column in line.cells for line in one.lines)]
    papers = {
        column: any(line.cells.get(column, Cell()).paper is not None for line in one.lines)
        for column in shown
    }
    head = [""]
    for column in shown:
        head += [f"{column}, paper"] * papers[column] + [f"{column}, ours" if papers[column] else column]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for line in one.lines:
        cells = [line.label]
        for column in shown:
            cell, form = line.cells.get(column, Cell()), one.columns[column]
            cells += [item.paper_text(cell.paper, form)] * papers[column]
            cells.append(item.ours_text(cell.ours, form))
        rows.append(cells)
    return [f"| {' | '.join(map(escaped, row))} |" for row in rows]


def markdown(study: Study, items: Sequence[Item], verdicts: Sequence[Verdict], more: Sequence[str]) -> str:
    """What the page says, with links to the pictures beside it."""
    text = [
        f"# The paper's tables and figures on {study.data}",
        NUMBERS,
        f"## The paper's claims at this scale: {tally(verdicts)}",
        RULE,
    ]
    for verdict in verdicts:
        mark = MARKS[verdict.outcome][1]
        lines = [f"- {mark} **{verdict.outcome}**: {verdict.claim} ({verdict.source})."]
        lines += [
            f"  - {MARKS[part.outcome][1]} {escaped(part.text)}: {part.numbers}" for part in verdict.parts
        ]
        text.append("\n".join([*lines, *([f"  - {verdict.caveat}"] if verdict.caveat else [])]))
    for one in items:
        if not one.is_measured:
            continue
        text += [f"## {one.title}", one.about, "\n".join(table_markdown(one))]
        if one.figure is not None:
            text.append(f"![{one.title}]({one.stem}.svg)")
        notes = [*one.notes, *([origin] if (origin := origin_of(one.lines)) else [])]
        text += ["\n".join(f"- {escaped(note)}" for note in notes)] if notes else []
    missing = {*more, *(str(entry) for one in items for entry in one.missing)}
    if missing:
        text.append(f"{len(missing)} commands are still to be given; `make paper` gives them.")
    return "\n\n".join(text) + "\n"


def write(study: Study, path: Path, second: str | None = None) -> Path:
    """Make all items and verdicts, and write the page, and beside it `report_DATA.md` and the items' files.

    Raises:
        UserError: there is no finished run of the data.
    """
    from experiments.reproduce import make_all

    items = make_all(study, second)
    if not any(one.is_measured and not one.is_exact for one in items):
        command = next((str(entry) for one in items for entry in one.missing), "")
        raise UserError(
            f"no finished run of data {study.data!r} below {study.outputs}; make one with: {command}"
        )
    library = Library(replace(study))
    verdicts = [claim(library) for claim in claims.CLAIMS]
    more = only_of_claims(items, library)
    for one in items:
        if one.is_measured:
            item.write(one, path.parent)
    path.write_text(page(study, items, verdicts, more), encoding="utf-8")
    path.with_name(f"{path.stem}_{study.data}.md").write_text(
        markdown(study, items, verdicts, more), encoding="utf-8"
    )
    return path


@answered
def main(arguments: Sequence[str] | None = None) -> int:
    """Status 2 with one line where there is nothing to report."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report", description=(__doc__ or "").splitlines()[0]
    )
    item.arguments(parser)
    parser.add_argument("--second", metavar="NAME", help="data set of Tables 7 and 8 (the other direction)")
    options = parser.parse_args(arguments)
    path = write(item.study(options), options.to / "report.html", options.second)
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
