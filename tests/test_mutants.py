"""The mutation tool: what becomes of a line, what is left alone, and which tests a file has."""

import ast
from pathlib import Path

import pytest

from tests.mutants import ROOT, mutants, nodes, related_tests, replacements

SOURCE = '''
class A:
    """Not - this."""
    least: int = 3

    def f(self, x: "int | None" = None) -> "int":
        checks.whole("x", x, 0)
        if not x:
            raise UserError(f"{1 + 1}" + "b")
        return min(x + 2, g(x, 1))
'''


def test_every_node_that_computes_is_changed_once_a_way() -> None:
    found = [
        (change, ast.unparse(new)) for node in nodes(ast.parse(SOURCE)) for new, change in replacements(node)
    ]
    assert found == [
        ("drop the statement", "pass"),
        ("drop Not", "x"),
        ("return nothing", "return None"),
        ("min to max", "max(x + 2, g(x, 1))"),
        ("Add to Sub", "x - 2"),
        ("2 to 3", "3"),
        ("swap the first two arguments of g", "g(1, x)"),
        ("1 to 2", "2"),
    ]


@pytest.mark.parametrize("file", ["mple/optimizer.py", "mple/proxy_target/axe.py", "mple/decoding/beam.py"])
def test_mutants_differ_from_the_source_in_one_place_and_compile(file: str) -> None:
    source = (ROOT / file).read_text()
    every = list(mutants(ROOT / file))
    assert len({mutant.source for mutant in every}) > len(every) / 2
    for mutant in every[:: max(1, len(every) // 20)]:
        assert mutant.source != source
        compile(mutant.source, file, "exec")
        assert source.splitlines()[mutant.line - 1].strip() == mutant.text


def test_every_mutated_file_has_tests() -> None:
    for file in (ROOT / "mple").glob("proxy*/*.py"):
        names = related_tests(file.relative_to(ROOT).as_posix())
        assert names
        assert all(Path(ROOT / name).is_file() for name in names)
