"""Which single-line mistakes does no test notice? Changes one node of the source at a time, runs its tests.

    make mutants files=mple/optimizer.py          # every mutant of one file
    make mutants share=0.05                       # a twentieth of all of `MODULES`
    python -m tests.mutants --list                # what would be changed, without running anything

A mutant is killed when a test fails, and survives when all pass. Results are appended to a file of JSON
lines: the same command again goes on where it was interrupted, and a mutant of a file that changed since is
run again. The working tree is copied first and never touched. Status 1 where a mutant survives that
`EQUIVALENT` lacks.
"""

import argparse
import ast
import copy
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MODULES = ("proxy", "proxy_target", "proxy_input", "objective", "decoding", "estimator", "modules")
FILES = ("optimizer.py", "callbacks.py")
TESTS = {
    "mple/objective/cross_entropy.py": ("tests/test_objective.py",),
    "mple/proxy_target/raw.py": ("tests/proxy_target/test_raw_kd.py",),
    "mple/proxy_target/kd.py": ("tests/proxy_target/test_raw_kd.py",),
    "mple/decoding/choice.py": ("tests/decoding/test_decode.py", "tests/decoding/test_npd.py"),
    "mple/decoding/fill.py": ("tests/decoding/test_decode.py", "tests/decoding/test_mask_predict.py"),
    "mple/modules/update.py": ("tests/modules/test_non_autoregressive.py",),
}
"""The tests of modules without a test file of the same path. Of others: every test that imports it."""

EQUIVALENT = {
    ("mple/optimizer.py", "lr=self.rate(0)", ""): "each update sets its rate before it steps",
    ("mple/optimizer.py", "fused=True", ""): "fused or not, the result is the same but for rounding",
    ("mple/optimizer.py", "MOST_", ""): "a bound that excludes slips alone",
}
"""(file, start of the line, start of the mutation) -> why no test can tell the mutant from the original."""

_PAIRS: list[tuple[type[ast.AST], type[ast.AST]]]
_PAIRS = [(ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn)]
_PAIRS += [(ast.And, ast.Or), (ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.BitAnd, ast.BitOr)]
FLIPPED = {b: a for a, b in _PAIRS} | dict(_PAIRS)
FLIPPED |= {ast.FloorDiv: ast.Div, ast.Mod: ast.Mult, ast.Pow: ast.Mult}
_NAMES = {
    "min": "max",
    "minimum": "maximum",
    "argmin": "argmax",
    "amin": "amax",
    "any": "all",
    "floor": "ceil",
}
_NAMES |= {"zeros": "ones", "zeros_like": "ones_like", "clamp_min": "clamp_max"}
OTHER = {b: a for a, b in _NAMES.items()} | _NAMES
SYMMETRIC = (*OTHER, "isinstance", "equal", "gcd")
"""Calls whose first two arguments are not swapped."""


@dataclass(frozen=True)
class Mutant:
    """`source` is the whole file with one node replaced, at `line` and `column`."""

    file: str
    line: int
    column: int
    text: str
    change: str
    source: str
    digest: str

    @property
    def key(self) -> str:
        return f"{self.file}:{self.line}:{self.column} {self.change} {self.digest}"

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.change}: {self.text}"

    @property
    def reason(self) -> str | None:
        """Why it is equivalent to the original, if it is listed."""
        for (file, text, change), reason in EQUIVALENT.items():
            if self.file == file and self.text.startswith(text) and self.change.startswith(change):
                return reason
        return None


def replacements(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """What a node becomes, and what is changed."""
    new: Any = copy.deepcopy(node)
    match node:
        case ast.Compare(ops=ops):
            for place, op in enumerate(ops):
                new = copy.deepcopy(node)
                new.ops[place] = FLIPPED[type(op)]()
                yield new, f"{type(op).__name__} to {type(new.ops[place]).__name__}"
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in FLIPPED:
            new.op = FLIPPED[type(op)]()
            yield new, f"{type(op).__name__} to {type(new.op).__name__}"
        case ast.AugAssign(op=op):
            if type(op) in FLIPPED:
                new.op = FLIPPED[type(op)]()
                yield new, f"{type(op).__name__} to {type(new.op).__name__}"
            yield ast.Pass(), "drop the statement"
        case ast.Expr(value=ast.Call()):
            yield ast.Pass(), "drop the statement"
        case ast.UnaryOp(op=op, operand=operand):
            yield operand, f"drop {type(op).__name__}"
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value), f"{value} to {not value}"
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1), f"{value} to {value + 1}"
        case ast.IfExp(test=test):
            new.test = ast.UnaryOp(ast.Not(), test)
            yield new, "negate the condition"
        case ast.Slice(lower=None, upper=ast.expr() as upper):
            yield ast.Slice(None, ast.BinOp(upper, ast.Sub(), ast.Constant(1))), "end one earlier"
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None)), "return nothing"
        case ast.Call(func=func, args=args):
            name = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
            if name in OTHER:
                setattr(new.func, "attr" if isinstance(func, ast.Attribute) else "id", OTHER[name])
                yield new, f"{name} to {OTHER[name]}"
            if len(args) > 1 and name not in SYMMETRIC and not isinstance(args[0], ast.Starred):
                new = copy.deepcopy(node)
                new.args[:2] = args[1], args[0]
                yield new, f"swap the first two arguments of {name}"


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All that computes: no annotations, decorators, docstrings, assertions, default values of fields, texts
    of errors; of a check that refuses a setting only the whole."""
    skipped: tuple[ast.AST | None, ...] = ()
    match tree:
        case ast.Raise() | ast.Assert() | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="checks")))):
            yield tree
            return
        case ast.FunctionDef():
            skipped = (*tree.decorator_list, tree.returns)
        case ast.ClassDef():
            fields = (each for each in tree.body if isinstance(each, ast.AnnAssign))
            skipped = (*tree.decorator_list, *tree.bases, *fields)
        case ast.arg() | ast.AnnAssign():
            skipped = (tree.annotation,)
    yield tree
    for child in ast.iter_child_nodes(tree):
        if child not in skipped:
            yield from nodes(child)


def mutants(path: Path) -> Iterator[Mutant]:
    """Every mutant of a file, in the order of its lines."""
    source = path.read_bytes()
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    digest = hashlib.sha256(source).hexdigest()[:8]
    name = path.relative_to(ROOT).as_posix()
    for node in nodes(ast.parse(source)):
        changes = [(node, new, change) for new, change in replacements(node)]
        if isinstance(node, ast.If | ast.While):
            changes.append((node.test, ast.UnaryOp(ast.Not(), node.test), "negate the condition"))
        for old, new, change in changes:
            first = starts[old.lineno - 1] + old.col_offset  # type: ignore[attr-defined]
            last = starts[old.end_lineno - 1] + old.end_col_offset  # type: ignore[attr-defined]
            code = ast.unparse(ast.fix_missing_locations(new))
            code = f"({code})" if isinstance(new, ast.expr) and not isinstance(new, ast.Slice) else code
            changed = (source[:first] + code.encode() + source[last:]).decode()
            line = old.lineno  # type: ignore[attr-defined]
            text = lines[line - 1].decode().strip()
            yield Mutant(name, line, old.col_offset, text, change, changed, digest)  # type: ignore[attr-defined]


def related_tests(file: str) -> list[str]:
    """The test files that a mutant of `file` has to pass."""
    path = Path(file)
    mirrored = Path("tests", *path.parts[1:-1], f"test_{path.name}").as_posix()
    if file in TESTS:
        return list(TESTS[file])
    if (ROOT / mirrored).is_file():
        return [mirrored]
    module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    imports = (f"from {module} import", f"import {module}\n")
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    return [
        test.relative_to(ROOT).as_posix()
        for test in tests
        if "system" not in test.parts and any(line in test.read_text() for line in imports)
    ]


def run_tests(folder: Path, tests: list[str], limit: float) -> tuple[str, float]:
    """killed, survived or timeout; and the seconds."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += ["-m", "not slow and not real and not gpu", *tests]
    settings = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return "timeout", time.monotonic() - began
    if status == 5:
        raise SystemExit(f"error: no test is collected from {' '.join(tests)}")
    return "killed" if status else "survived", time.monotonic() - began


def copied(folder: Path) -> Path:
    """The files of the working tree, below `folder`."""
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def chosen(files: list[str], share: float) -> list[Mutant]:
    """A sample that is the same at every call, without those that are known to be equivalent."""
    paths = [ROOT / file for file in files]
    paths = paths or [path for module in MODULES for path in sorted((ROOT / "mple" / module).glob("*.py"))]
    paths += [] if files else [ROOT / "mple" / file for file in FILES]
    every = [mutant for path in paths for mutant in mutants(path)]

    def place(mutant: Mutant) -> float:
        return int(hashlib.sha256(mutant.key.encode()).hexdigest()[:8], 16) / 16**8

    return [mutant for mutant in every if mutant.reason is None and place(mutant) < share]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", nargs="*", default=[], help="files of mple/ to mutate (default: MODULES)")
    parser.add_argument("--share", type=float, default=1.0, help="share of the mutants that are tried")
    parser.add_argument("--results", type=Path, default=ROOT / "outputs" / "mutants.jsonl")
    parser.add_argument("--list", action="store_true", help="show the mutants and run nothing")
    asked = parser.parse_args()
    wanted = chosen(asked.files, asked.share)
    if asked.list:
        for mutant in wanted:
            print(mutant)
        return 0
    lines = asked.results.read_text().splitlines() if asked.results.exists() else []
    results: dict[str, str] = {entry["key"]: entry["result"] for entry in map(json.loads, lines)}
    asked.results.parent.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name, asked.results.open("a") as file:
        folder = copied(Path(name))
        for number, mutant in enumerate(wanted, 1):
            if mutant.key in results:
                continue
            tests = related_tests(mutant.file)
            if mutant.file not in seconds:
                result, seconds[mutant.file] = run_tests(folder, tests, 3600)
                if result != "survived":
                    raise SystemExit(f"error: the tests of {mutant.file} fail without a mutant: {tests}")
            path = folder / mutant.file
            original = path.read_bytes()
            path.write_text(mutant.source)
            result, _ = run_tests(folder, tests, 30 + 3 * seconds[mutant.file])
            path.write_bytes(original)
            results[mutant.key] = result
            file.write(json.dumps({"key": mutant.key, "result": result, "text": mutant.text}) + "\n")
            file.flush()
            print(f"{number}/{len(wanted)} {result}: {mutant}")
    survivors = [mutant for mutant in wanted if results[mutant.key] == "survived"]
    print(f"{len(wanted) - len(survivors)} of {len(wanted)} mutants are killed; those that survive:")
    for mutant in survivors:
        print(mutant)
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
