"""What aligned targets share: whose text they lay anew, and a model that has diverged."""

import math
from functools import partial

import pytest
import torch

from mple.checks import UserError
from mple.proxy_target.axe import AXE
from mple.proxy_target.oaxe import OaXE
from mple.proxy_target.raw import Raw
from mple.types import BLANK
from tests.fakes import nat, random_batch, snapshot_of

ALIGNED = [AXE, partial(AXE, variant="strict"), partial(AXE, delta=0), OaXE]


@pytest.mark.parametrize("outer", [AXE, OaXE])
@pytest.mark.parametrize("inner", [AXE, OaXE])
def test_a_reference_that_is_aligned_itself_is_refused(outer: type, inner: type) -> None:
    with pytest.raises(UserError, match=f"proxy_target.reference must .* got {inner.__name__}, which is"):
        outer(inner(Raw()))


@pytest.mark.parametrize("make", ALIGNED)
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_model_that_has_diverged_is_laid_out_nonetheless(make: partial, value: float) -> None:
    """Then its loss says so, which ends the run with a sentence."""
    model, batch = nat(), random_batch([3, 4], [5, 2])
    with torch.no_grad():
        for weights in model.parameters():
            weights.fill_(value)
    target = make(Raw())(batch, snapshot_of(model, batch))
    said = target.tokens[target.counts]
    assert ((said == BLANK) | torch.isin(said, batch.tgt_tokens)).all()
