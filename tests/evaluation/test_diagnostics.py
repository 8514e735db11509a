"""Diagnostics of finished runs: counted again by hand, choices against the proxy target's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch

from mple.checks import UserError
from mple.evaluation import Evaluation
from mple.evaluation.diagnostics import Diagnostics
from tests.evaluation.test_mple import made
from tests.runs import random_run
from tests.test_evaluate import opened


def test_of_an_autoregressive_run_there_is_text_alone(tmp_path: Path) -> None:
    run = opened(random_run(tmp_path, "+experiment=at", "size=student"))
    found = Diagnostics()(run)
    assert isinstance(Diagnostics(), Evaluation)
    assert list(found) == ["repetition_rate_percent", "length_ratio", "distinct_1", "distinct_2"]
    outputs = run.translate("test", run.module.decoding)
    words = [word for output in outputs for word in output.split()]
    assert found["distinct_1"] == pytest.approx(len(set(words)) / len(words))
    references = " ".join(run.data.text("test")[2]).split()
    assert found["length_ratio"] == pytest.approx(len(words) / len(references))


def test_lengths_are_those_of_the_predictor(tmp_path: Path) -> None:
    run = opened(random_run(tmp_path, "+experiment=vanilla_raw"))
    found = Diagnostics(split="valid")(run)
    off = []
    model: Any = run.module.model
    for batch in run.data.batches("valid", max_tokens=1):
        log_probs = model.length.log_probs(model.encode(batch.src_tokens))
        source = int((batch.src_tokens[0] > 2).sum())  # content
        predicted = max(1, source + int(log_probs.argmax()) - log_probs.shape[1] // 2)
        off.append(abs(predicted - int(batch.tgt_lengths)))
    for k in (0, 1, 2):
        assert found[f"length_within_{k}_percent"] == pytest.approx(100 * np.mean(np.array(off) <= k))
    assert not any("agreement" in key for key in found)


def test_choices_are_the_proxy_targets_own(tmp_path: Path) -> None:
    run = made(tmp_path, "+experiment=vanilla_dynkd")
    found = Diagnostics()(run)
    names = run.job.candidates
    counts, alone = dict.fromkeys(names, 0.0), {"nll_alone": 0.0, "agreement_alone": 0.0}
    total = 0
    module: Any = run.module
    with torch.no_grad():
        for batch in run.batches_with_candidates("valid"):
            snapshot = module.snapshot(batch, module.model.encode(batch.src_tokens))
            log = run.job.target(batch, snapshot).log
            total += len(batch)
            for name in names:
                counts[name] += float(log[f"selected_{name}"].total)
            for name in alone:
                alone[name] += float(log[name].total)
    for name in names:
        assert found[f"selected_{name}_percent"] == pytest.approx(100 * counts[name] / total)
    assert found["differs_from_nll_percent"] == pytest.approx(100 * (1 - alone["nll_alone"] / total))
    assert found["differs_from_agreement_percent"] == pytest.approx(
        100 * (1 - alone["agreement_alone"] / total)
    )


def test_agreement_is_sacrebleus(tmp_path: Path) -> None:
    run = made(tmp_path, "+experiment=vanilla_dynkd")
    found = Diagnostics()(run)
    candidates = run.data.candidates("valid")
    assert candidates is not None
    tokens = candidates.tokens(np.arange(len(candidates)))
    texts = {name: run.data.decode(torch.tensor(tokens[:, k])) for k, name in enumerate(candidates.names)}
    scores = [
        sacrebleu.sentence_bleu(hypothesis, [reference], tokenize="13a").score
        for hypothesis, reference in zip(texts["tiny"], texts["raw"], strict=True)
    ]
    assert found["agreement_raw_tiny_bleu"] == pytest.approx(np.mean(scores), abs=1e-3)
    same = [a == b for a, b in zip(texts["tiny"], texts["raw"], strict=True)]
    assert found["identical_tiny_raw_percent"] == pytest.approx(100 * np.mean(same))


def test_without_the_distilled_texts_it_is_refused_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(random_run(tmp_path, "+experiment=vanilla_dynkd"))
    monkeypatch.setattr(type(run), "translate", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UserError, match="distilled texts are gone"):
        Diagnostics()(run)
