"""Lines in, translations out: order and number, what each line depends on, and every fault of the input."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given
from hypothesis import strategies as st

import translate as command
from mple.checks import UserError
from mple.command import guarded
from mple.decoding.beam import Beam
from mple.trained import Trained, load
from mple.translate import Report, Translation, Translator, answer, arriving, split
from tests.runs import CONF, MAX_LENGTH, random_run, sentences

ROOT = CONF.parent
LENGTHS = {"_target_": "mple.decoding.lengths.TopLengths", "beam": 3}
PARALLEL = {"_target_": "mple.decoding.decode.Decode", "lengths": LENGTHS}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    return {
        "nat": random_run(root, "+experiment=vanilla_raw"),
        "at": random_run(root, "+experiment=at", "size=base"),
    }


@pytest.fixture(scope="module")
def nat(folders: dict[str, Path]) -> Trained:
    return load(folders["nat"])


@pytest.fixture(scope="module")
def at(folders: dict[str, Path]) -> Trained:
    return load(folders["at"]).with_decoding({"_target_": "mple.decoding.beam.Beam", "beam": 2})


def lines_of(text: str | bytes) -> Iterator[bytes]:
    return iter(io.BytesIO(text.encode() if isinstance(text, str) else text))


def texts(translator: Translator, text: str | bytes, bucket: int = 4096) -> list[str]:
    return [t.text for found in translator.stream(lines_of(text), bucket) for t in found]


@pytest.mark.parametrize("kind", ["nat", "at"])
def test_every_line_has_its_translation_in_its_place_whatever_its_neighbours(
    kind: str, request: pytest.FixtureRequest
) -> None:
    trained: Trained = request.getfixturevalue(kind)
    source = [s for s in sentences(90, seed=1) if len(trained.encode([s])[0]) <= MAX_LENGTH][:16]
    for place in (0, 7, 8, 15):
        source[place] = ""
    source[12] = " \t "
    alone = [trained.translate([line])[0] if line.strip() else "" for line in source]
    assert len(set(alone)) > 5
    text = "".join(line + "\n" for line in source)
    for bucket, max_tokens in ((4096, 4096), (7, 40), (1, 1)):
        assert texts(Translator(trained, max_tokens), text, bucket) == alone
    assert texts(Translator(trained), text.rstrip("\n") + "\n" * 2) == alone
    assert texts(Translator(trained), text.replace("\n", "\r\n")) == alone
    assert texts(Translator(trained), "\ufeff" + text[1:]) == texts(Translator(trained), text[1:])


def test_no_lines_no_translations_and_the_last_line_needs_no_end(nat: Trained) -> None:
    assert texts(Translator(nat), "") == []
    assert texts(Translator(nat), "\n") == [""]
    assert texts(Translator(nat), "mann\nfrau") == nat.translate(["mann", "frau"])


def test_a_bucket_is_answered_before_the_next_is_read(nat: Trained) -> None:
    read: list[int] = []

    def lines() -> Iterator[bytes]:
        for i in range(5):
            read.append(i)
            yield b"mann\n"

    stream = Translator(nat).stream(lines(), bucket=2)
    assert [t.line for t in next(stream)] == [1, 2]
    assert read == [0, 1]
    assert [[t.line for t in found] for found in stream] == [[3, 4], [5]]


@pytest.mark.parametrize("error", [UserError("no"), OSError(5, "no"), KeyboardInterrupt(), SystemExit(143)])
def test_what_was_read_before_reading_fails_is_translated(nat: Trained, error: BaseException) -> None:
    def lines() -> Iterator[bytes]:
        yield from (b"mann\n", b"frau\n", b"hund\n")
        raise error

    output = io.StringIO()
    with pytest.raises(type(error)):
        answer(Translator(nat), lines(), output, io.StringIO(), 2, shows=False)
    assert output.getvalue().splitlines() == nat.translate(["mann", "frau", "hund"])


def test_a_pause_hands_out_what_there_is(nat: Trained) -> None:
    stream = Translator(nat).stream([None, b"mann\n", None, None, b"frau\n", b"hund\n", None])
    assert [[t.line for t in found] for found in stream] == [[1], [2, 3]]


def test_a_slow_pipe_is_answered_while_it_waits() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb", buffering=0) as sink:
        lines = iter(arriving(source, pause=0.01))
        sink.write(b"a\n\nb\r\nhal")
        assert [next(lines) for _ in range(4)] == [b"a\n", b"\n", b"b\r\n", None]
        sink.write(b"f\nrest")
        assert [next(lines) for _ in range(2)] == [b"half\n", None]
        sink.write(b"x" * 200)
        sink.close()
        assert list(lines) == [b"rest" + b"x" * 200]


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    held = io.BytesIO(b"a\n")
    assert arriving(held) is held
    (tmp_path / "in.txt").write_bytes(b"a\n")
    with (tmp_path / "in.txt").open("rb") as source:
        assert arriving(source) is source


LONG = "der mann läuft schnell, die frau läuft. grün! ein hund sieht unter eine katze über der frau. langsam"


def test_a_long_line_is_the_translations_of_its_parts(nat: Trained) -> None:
    def fits(text: str) -> bool:
        return len(nat.encode([text])[0]) <= MAX_LENGTH

    parts = split(LONG, fits)
    assert len(parts) > 2
    assert " ".join(parts) == LONG
    report = Report()
    (found,) = Translator(nat).stream(lines_of(f"mann\n{LONG}\nfrau\n"), report=report)
    assert [t.parts for t in found] == [1, len(parts), 1]
    expected = [nat.translate([part])[0] for part in parts]
    assert found[1].text == " ".join(text for text in expected if text)
    assert (report.lines, report.split) == (3, 1)
    assert "1 too long and split" in str(report)


def test_a_longer_maximum_translates_a_line_as_one(nat: Trained) -> None:
    line = "eine katze sieht über einen hund"
    assert MAX_LENGTH < len(nat.encode([line])[0]) <= 31
    (found,) = Translator(nat, max_length=31).stream(lines_of(line))
    assert found[0].parts == 1
    assert found[0].text == nat.translate([line])[0]
    with pytest.raises(UserError, match="max_length must be at most 31"):
        Translator(nat, max_length=32)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a b. c d. e fg", ["a b. c d.", "e fg"]),
        ("a, b c d e f. g", ["a, b c d e f.", "g"]),
        ("aaa bbb, ccc", ["aaa bbb,", "ccc"]),
        ("aa bb cc dd", ["aa bb", "cc dd"]),
        ('he said "no." she', ['he said "no."', "she"]),
        ("3.14 is pi", ["3.14", "is pi"]),
        ("你好。再见", ["你好。", "再见"]),
        ("abcdefgh", ["abcd", "efgh"]),
    ],
)
def test_the_best_place_for_a_cut(text: str, parts: list[str]) -> None:
    assert split(text, lambda part: part != text) == parts


@given(st.text(alphabet="ab .,!。\t", max_size=60), st.integers(1, 9))
def test_a_split_loses_nothing_but_white_space_and_its_parts_fit(text: str, limit: int) -> None:
    parts = split(text, lambda part: len(part) <= limit)
    assert all(len(part) <= limit for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_too_long_refused_names_the_line_after_those_before_it(nat: Trained) -> None:
    stream = Translator(nat, too_long="refuse").stream(lines_of(f"mann\nfrau\n{LONG}\n"))
    assert [t.line for t in next(stream)] == [1, 2]
    with pytest.raises(UserError, match=rf"line 3 must have at most {MAX_LENGTH} tokens; got \d\d "):
        next(stream)


@pytest.mark.parametrize(
    ("text", "line", "byte"),
    [(b"mann\nfr\xffau\n", 2, 3), (b"\xfc\n", 1, 1), (b"\xef\xbb\xbfab\xc3", 1, 6), (b"\n\n\xe4\xf6", 3, 1)],
)
def test_a_line_that_is_not_utf8_is_named_with_its_byte(
    nat: Trained, text: bytes, line: int, byte: int
) -> None:
    before = sum(len(part) for part in text.split(b"\n")[: line - 1]) + line - 1
    said = (
        f"line {line} must be UTF-8; got byte 0x.. as byte {byte} of the line, at offset {before + byte - 1} "
    )
    for pauses in (0, 1):  # which are no lines
        lines = [part for found in lines_of(text) for part in (*[None] * pauses, found)]
        with pytest.raises(UserError, match=said):
            list(Translator(nat).stream(lines))


def test_unknown_characters_are_counted(nat: Trained) -> None:
    report = Report()
    list(Translator(nat).stream(lines_of("mann ☃☃ hund\nfrau\n☃ @ mann\n"), report=report))
    assert report.unknown == 4
    assert "4 unknown to the vocabulary: '☃' (3), '@' (1)" in str(report)
    assert nat.src_vocabulary.unknown("mann läuft") == []


def test_a_report_stays_small_and_keeps_the_most_common() -> None:
    report = Report()
    for i in range(5000):
        report.add_unknown([chr(0x4E00 + i), "☃"])
    assert report.unknown == 10_000
    assert len(report.most_common) <= 1000
    assert report.most_common["☃"] == 5000


def n_best(trained: Trained, text: str, n: int) -> list[Translation]:
    return [t for found in Translator(trained, n_best=n).stream(lines_of(text)) for t in found]


def test_the_candidates_of_lengths_best_first(nat: Trained) -> None:
    parallel = nat.with_decoding(PARALLEL)
    found = n_best(parallel, "mann hund\n\ndie frau läuft\n", 3)
    assert found[1].candidates == ()
    for translation in (found[0], found[2]):
        src_tokens = parallel.src_tokens(parallel.encode([translation.source]))
        expected: Any = parallel.decoding.candidates(parallel.model, src_tokens)  # type: ignore[union-attr]
        wanted = [
            (text, score)
            for text, score in zip(
                parallel.texts(expected.tokens[0]), expected.scores[0].tolist(), strict=True
            )
            if score > -torch.inf
        ]
        assert [c.text for c in translation.candidates] == [text for text, _ in wanted]
        assert [c.score_nats for c in translation.candidates] == pytest.approx(
            [s for _, s in wanted], rel=1e-5
        )
        assert translation.text == parallel.translate([translation.source])[0]
    report = json.loads(found[2].as_json())
    assert report["line"] == 3
    assert report["source"] == "die frau läuft"
    assert set(report["candidates"][0]) == {"text", "score_nats"}


def test_of_equal_candidates_the_best_is_kept(nat: Trained) -> None:
    several = nat.with_decoding({**PARALLEL, "lengths": {**LENGTHS, "beam": 7}, "deduplicate": "token"})
    source = [s for s in sentences(40, seed=2) if len(nat.encode([s])[0]) <= MAX_LENGTH]
    repeats = 0
    for line in source:
        ids = several.encode([line])
        found: Any = several.decoding.candidates(several.model, several.src_tokens(ids))  # type: ignore[union-attr]
        scores = found.scores[0].tolist()
        wanted = [t for t, s in zip(several.texts(found.tokens[0]), scores, strict=True) if s > -torch.inf]
        distinct = list(dict.fromkeys(wanted))
        repeats += len(wanted) - len(distinct)
        for n in (2, 7):
            assert [c.text for c in n_best(several, line, n)[0].candidates] == distinct[:n]
    assert repeats  # there was something to leave out


def test_the_candidates_of_beam_search_best_first(at: Trained) -> None:
    searching = at.with_decoding({"_target_": "mple.decoding.beam.Beam", "beam": 4})
    (found,) = n_best(searching, "die frau läuft\n", 3)
    src_tokens = searching.src_tokens(searching.encode(["die frau läuft"]))
    assert isinstance(searching.decoding, Beam)
    expected = searching.decoding.search(searching.model, src_tokens, n_best=3)
    assert [c.text for c in found.candidates] == searching.texts(expected.tokens[0])
    assert found.text == searching.translate(["die frau läuft"])[0]


def test_a_split_line_has_one_candidate_whose_score_is_the_sum(nat: Trained) -> None:
    parallel = nat.with_decoding(PARALLEL)
    (found,) = n_best(parallel, LONG, 2)
    parts = split(LONG, lambda part: len(nat.encode([part])[0]) <= MAX_LENGTH)
    best = [n_best(parallel, part, 2)[0].candidates[0] for part in parts]
    assert [c.score_nats for c in found.candidates] == pytest.approx([sum(c.score_nats for c in best)])


def test_candidates_that_there_are_not_are_refused(nat: Trained, at: Trained) -> None:
    with pytest.raises(
        UserError, match=r"n_best needs a decoding with candidates.*length_parallel.*got Argmax"
    ):
        Translator(nat, n_best=2)
    with pytest.raises(UserError, match=r"n_best must be at most decoding\.beam=2; got 3"):
        Translator(at, n_best=3)
    with pytest.raises(UserError, match=r"n_best must be at most the number of lengths .* 3 .*got 4"):
        n_best(nat.with_decoding(PARALLEL), "mann", 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"too_long": "cut"}, "too_long must be one of refuse, split; got 'cut'"),
        ({"precision": "half"}, "precision must be one of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_length": 0}, "max_length"),
        ({"n_best": 0}, "n_best"),
    ],
)
def test_a_wrong_setting_is_named(nat: Trained, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Translator(nat, **settings)


def test_a_decoding_without_its_teacher_says_how_to_name_it(nat: Trained) -> None:
    asks = nat.with_decoding({**PARALLEL, "choice": {"_target_": "mple.decoding.npd.TeacherScore"}})
    with pytest.raises(UserError, match=r"asks the teacher 'base': .* teacher=FOLDER"):
        Translator(asks)


def test_bf16_translates_too(nat: Trained) -> None:
    found = texts(Translator(nat, precision="bf16-mixed"), "mann\nfrau läuft\n")
    assert len(found) == 2


# --- the command ---------------------------------------------------------------------------------------


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def _configuration() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def called(source: io.BytesIO, *overrides: str) -> tuple[str, str]:
    """(stdout, stderr)"""
    output, errors = io.StringIO(), io.StringIO()
    command.translate(hydra.compose("translate", list(overrides)), source, output, errors)
    return output.getvalue(), errors.getvalue()


@pytest.mark.usefixtures("_configuration")
def test_the_command_translates_quietly(folders: dict[str, Path], nat: Trained) -> None:
    out, err = called(io.BytesIO(b"mann\n\nfrau\n"), f"run={folders['nat']}", "device=cpu")
    assert out.splitlines() == [*nat.translate(["mann"]), "", *nat.translate(["frau"])]
    assert err == ""
    _, err = called(io.BytesIO("☃\n".encode()), f"run={folders['nat']}", "device=cpu")
    assert "1 unknown to the vocabulary: '☃' (1)" in err
    out, err = called(Terminal(b"mann\nfrau\n"), f"run={folders['nat']}", "device=cpu")
    assert out.splitlines() == nat.translate(["mann", "frau"])
    assert "Ctrl-D" in err


@pytest.mark.usefixtures("_configuration")
def test_the_command_takes_another_decoding_or_changes_the_run_s_own(folders: dict[str, Path]) -> None:
    nat, at = (f"run={folders[name]}" for name in ("nat", "at"))
    made = command.translator(
        hydra.compose("translate", [nat, "decoding=length_parallel", "decoding.lengths.beam=2"])
    )
    assert made.trained.decoding.lengths.beam == 2  # type: ignore[union-attr]
    made = command.translator(hydra.compose("translate", [at, "+decoding.beam=3"]))
    assert (made.trained.decoding.beam, made.trained.decoding.length_penalty) == (3, 1.0)  # type: ignore[union-attr]
    teacher = f"teacher={folders['at']}"
    made = command.translator(hydra.compose("translate", [nat, "decoding=npd", teacher]))
    assert made.trained.decoding.choice.model is made.trained.teacher.model  # type: ignore[union-attr]
    for other in ("decoding=argmax", "decoding=length_parallel"):
        with pytest.raises(UserError, match=r"teacher must be given only with a decoding that asks one"):
            command.translator(hydra.compose("translate", [nat, other, teacher]))
    with pytest.raises(UserError, match=r"teacher must be given only .*; got .* with Beam"):
        command.translator(hydra.compose("translate", [at, teacher]))
    made = command.translator(hydra.compose("translate", [at, "decoding=greedy"]))
    assert made.trained.decoding == Beam(beam=1)
    with pytest.raises(UserError, match="decoding must be any but beam for a NAT"):
        command.translator(hydra.compose("translate", [nat, "decoding=beam"]))
    with pytest.raises(UserError, match="run must be the folder"):
        command.translator(hydra.compose("translate", []))


def test_answers_are_written_bucket_by_bucket_and_said_at_the_end(nat: Trained) -> None:
    class Watched(io.StringIO):
        flushed: list[int] = []  # noqa: RUF012  # one object only

        def flush(self) -> None:
            self.flushed.append(self.getvalue().count("\n"))

    output, errors = Watched(), io.StringIO()
    with pytest.raises(UserError, match="line 6"):
        answer(
            Translator(nat), io.BytesIO("mann\n☃\n".encode() * 2 + b"a\n\xff"), output, errors, 2, shows=False
        )
    assert output.flushed == [2, 4, 5]
    assert errors.getvalue().startswith("5 lines; 2 unknown")


def shell(script: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PY": sys.executable}
    return subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )


def test_a_reader_that_has_seen_enough_ends_it_quietly(folders: dict[str, Path]) -> None:
    script = (
        f'yes mann | "$PY" translate.py run={folders["nat"]} bucket=64 | head -n 2; echo ${{PIPESTATUS[1]}}'
    )
    found = shell(script)
    first, second, status = found.stdout.splitlines()
    assert first == second == load(folders["nat"]).translate(["mann"])[0]
    assert status == "141"
    assert found.stderr == ""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_slow_producer_is_answered_and_a_signal_loses_no_line(
    folders: dict[str, Path], number: int, status: int
) -> None:
    program = [sys.executable, "translate.py", f"run={folders['nat']}", "device=cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # A shell that started the tests in the background has them ignore SIGINT, and this would inherit it.
    pipes["preexec_fn"] = partial(signal.signal, number, signal.SIG_DFL)
    with subprocess.Popen(program, cwd=ROOT, env=environment, **pipes) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(b"mann\nfrau\n")
        running.stdin.flush()
        found = [running.stdout.readline().decode().rstrip("\n") for _ in range(2)]  # while stdin is open
        running.send_signal(number)
        rest, errors = running.communicate(timeout=60)
    assert found == load(folders["nat"]).translate(["mann", "frau"])
    assert (rest, errors, running.returncode) == (b"", b"", status)


def test_a_mistake_is_one_line_on_stderr_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    def main(error: BaseException) -> None:
        raise error

    for error, status, said in (
        (UserError("line 2 must be UTF-8"), 2, "error: line 2 must be UTF-8\n"),
        (KeyboardInterrupt(), 130, ""),
    ):
        with pytest.raises(SystemExit) as ended:
            guarded(main)(error)
        assert ended.value.code == status
        assert capsys.readouterr().err == said
    with pytest.raises(ZeroDivisionError):
        guarded(main)(ZeroDivisionError())
