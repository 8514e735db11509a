"""See why a model says what it says: one self-contained HTML page for a sentence.

    python -m mple.explain run=outputs/glat_dynkd/multi30k_de-en "Ein Hund läuft durch den Schnee."
    python -m mple.explain run=RUN "Ein Hund läuft." reference="A dog runs."     # what the proxy makes of it
    python -m mple.explain run=CMLM "Ein Hund läuft." iterations=4               # the steps of mask-predict

run          a finished run's folder (or one above it) or an export
reference    a target: what glancing would show of it, where AXE or OaXE would lay it
iterations   passes of mask-predict to show, for models trained with masks; 0 shows none
top          pieces shown at each position, and hypotheses of an autoregressive model (5)
seed         of what is glanced (0)
teacher      for runs with decoding=npd: folder of the autoregressive run that chooses
to           the file; without it RUN/explain/<sentence>.html
sentence     one that would be taken for another argument (sentence="top=5")
"""

import re
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Any

from mple import checks
from mple.checks import UserError
from mple.command import guarded, key_values
from mple.explanation import Explanation, explain
from mple.files import write_text
from mple.plain import plain
from mple.trained import load

TEMPLATE = "explain.html.jinja"


def page(explanation: Explanation) -> str:
    """The whole page: text, styles and drawings in one file, nothing is fetched."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = lambda p: f"{100 * p:.0f} %" if p >= 0.095 else f"{100 * p:.1f} %"
    environment.filters["piece"] = lambda piece: piece.replace("▁", " ").strip() or "␣"
    return environment.get_template(TEMPLATE).render(e=explanation, arrows=arrows)


def arrows(positions: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Ends of the lines of an alignment, as (x of the token, x of its place, token), columns 90 wide."""
    return [(90 * token + 45, 90 * place + 45, token) for token, place in enumerate(positions)]


def file_name(source: str) -> str:
    """A name that says the sentence and is another one for every other sentence."""
    words = re.sub(r"[^\w]+", "-", source.lower()).strip("-")[:40].strip("-")
    return f"{words}-{blake2b(source.encode(), digest_size=4).hexdigest()}.html".lstrip("-")


def options(arguments: list[str]) -> dict[str, Any]:
    """The sentence and the `key=value` arguments.

    Raises:
        UserError: no sentence or several, an unknown key, a value of another type.
    """
    defaults: dict[str, Any] = dict.fromkeys(("run", "to", "reference", "teacher", "sentence"))
    defaults |= {"iterations": 0, "top": 5, "seed": 0}
    given, sentences = key_values(arguments, defaults, "a sentence")
    sentences += [] if given["sentence"] is None else [given["sentence"]]
    if len(sentences) != 1:
        raise UserError(f"exactly one sentence must be given, in quotes; got {len(sentences)}")
    if not given["run"]:
        raise UserError("run must be the folder of a finished run or of an export (run=FOLDER); got none")
    checks.one_line("the sentence", sentences[0])
    return given | {"sentence": sentences[0]}


@guarded
def main(arguments: list[str]) -> None:
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    given = options(arguments)
    trained = load(given["run"])
    if given["teacher"] is not None:
        trained = trained.with_decoding(trained.config["decoding"], load(given["teacher"]))
    found = explain(
        trained, given["sentence"], given["reference"], given["top"], given["iterations"], given["seed"]
    )
    path = Path(given["to"] or trained.folder / "explain" / file_name(found.source))
    if path.is_dir():
        raise UserError(f"to must name a file; {path} is a folder")
    with checks.writes("to", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, page(found))
    print(plain(f"{found.output}\nin {path}"))


if __name__ == "__main__":
    main(sys.argv[1:])
