"""Signals in this process: at once where nothing is held, else when that ends, and the launcher's handler
last."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from mple.training import signals

EACH = pytest.mark.parametrize("number", signals.SIGNALS)


def ended(main: Callable[[], Any]) -> int:
    with pytest.raises(signals.Interrupted) as stop:
        signals.resumable(main)()
    return int(stop.value.code or 0)


@EACH
def test_a_signal_ends_the_command_at_once(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    steps: list[str] = []

    def main() -> None:
        steps.append("begun")
        os.kill(os.getpid(), number)
        steps.append("not reached")

    assert ended(main) == 128 + number
    assert steps == ["begun"]
    assert signal.getsignal(number) == before
    err = capfd.readouterr().err
    assert err == f"stopped by {signal.Signals(number).name}: the same command continues from here\n"


@EACH
def test_a_held_signal_waits(number: int) -> None:
    steps: list[object] = []

    def main() -> None:
        signals.hold()
        os.kill(os.getpid(), number)
        steps.append(signals.received())
        signals.release()
        steps.append("not reached")

    assert ended(main) == 128 + number
    assert steps == [number]


def test_a_second_ctrl_c_does_not_wait() -> None:
    steps: list[str] = []

    def main() -> None:
        signals.hold()
        os.kill(os.getpid(), signal.SIGINT)
        steps.append("held")
        os.kill(os.getpid(), signal.SIGINT)
        steps.append("not reached")

    assert ended(main) == 130
    assert steps == ["held"]


def test_the_launcher_s_handler_runs_last() -> None:
    steps: list[str] = []
    before = signal.signal(signal.SIGUSR2, lambda *_: steps.append("requeued"))

    def main() -> None:
        try:
            os.kill(os.getpid(), signal.SIGUSR2)
        finally:
            steps.append("written")

    try:
        assert ended(main) == 128 + signal.SIGUSR2
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert steps == ["written", "requeued"]


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert signals.resumable(lambda: os.kill(os.getpid(), signal.SIGTERM) or "done")() == "done"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_child_gets_the_signal_and_its_status_is_the_command_s() -> None:
    program = (
        "import os, signal, sys, time\n"
        "def stop(number, frame): sys.exit(9)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(20)\n"
    )

    def main() -> int:
        return signals.run([sys.executable, "-c", program])

    assert ended(main) == 143
    assert signals.resumable(lambda: signals.run([sys.executable, "-c", "raise SystemExit(3)"]))() == 3


def test_other_processes_of_the_run_are_stopped() -> None:
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])

    def main() -> None:
        signals.started([worker])
        os.kill(os.getpid(), signal.SIGTERM)

    assert ended(main) == 143
    assert worker.wait(20) == -signal.SIGTERM


@pytest.mark.parametrize(("rank", "status"), [("0", 138), ("1", 0)])
def test_processes_that_stop_together_end_well_but_for_the_first(
    rank: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert signals.Interrupted(signal.SIGUSR1, is_agreed=True).code == status
    assert signals.Interrupted(signal.SIGUSR1).code == 138
