"""Every row of Tables 2 and 3 learns on the grammar (`budget=minutes`, seed 1) to say valid sentences; plain
maximum likelihood does not.

    MPLE_OUTPUTS=outputs make test-slow      # finished runs there are not made again

A row takes about three minutes on a core, so all are slow; they share teachers.
"""

import os
from pathlib import Path

import pytest

from mple.launch import Job
from tests.runs import job

VALID = {
    "vanilla_kd": 70,
    "axe_tau1": 60,
    "axe_tau5": 60,
    "axe_tau10": 60,
    "oaxe_10k": 60,
    "oaxe_50k": 60,
    "oaxe_300k": 60,
    "cmlm": 60,
    "cmlm_fixed": 60,
    "glat_kd": 60,
    "glat_levenshtein": 60,
    "glat_pref": 60,
    "glat_one_minus_pref": 60,
    "vanilla_dynkd": 60,
    "glat_dynkd": 60,
}
"""Least valid rate, per cent: ten points or more below what one seed reached (experiments/README.md)."""
MIXED = 40
"""Plain maximum likelihood stays below this."""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(os.environ.get("MPLE_OUTPUTS") or tmp_path_factory.mktemp("rows"))


def valid_rate(experiment: str, outputs: Path) -> float:
    made: Job = job(f"+experiment={experiment}", "data=grammar", "budget=minutes", f"outputs={outputs}")
    return made.execute()["test"]["valid_rate_percent"]


@pytest.mark.slow
@pytest.mark.parametrize("experiment", VALID)
def test_a_row_says_valid_sentences(experiment: str, outputs: Path) -> None:
    assert valid_rate(experiment, outputs) >= VALID[experiment]


@pytest.mark.slow
def test_plain_maximum_likelihood_mixes_modes(outputs: Path) -> None:
    assert valid_rate("vanilla_raw", outputs) < MIXED
