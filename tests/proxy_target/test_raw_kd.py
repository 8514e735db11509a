"""Raw gives the reference, KD the teacher's sentence, both on canvases of their own length."""

import torch

from mple.proxy_target import ProxyTarget, laid_out
from mple.proxy_target.kd import KD
from mple.proxy_target.raw import Raw
from mple.types import PAD
from tests.fakes import count_decodes, nat, pad_right, random_batch, snapshot_of


def test_raw() -> None:
    model, batch = nat(), random_batch([3, 4], [5, 2])
    calls = count_decodes(model)
    target = Raw()(batch, snapshot_of(model, batch))
    assert isinstance(Raw(), ProxyTarget)
    assert Raw().candidates == ()
    assert torch.equal(target.tokens, batch.tgt_tokens)
    assert torch.equal(target.counts, batch.tgt_tokens != PAD)
    assert target.lengths.tolist() == [5, 2]
    assert target.log == {}
    assert calls.rows == []


def test_kd_takes_its_teacher_by_name() -> None:
    model = nat()
    batch = random_batch([3, 4], [5, 2], [[4, 2, 6], [1, 3, 2]], names=("raw", "tiny", "base"))
    calls = count_decodes(model)
    assert batch.tgt_candidates is not None
    for k, name in enumerate(batch.candidate_names):
        assert isinstance(KD(name), ProxyTarget)
        assert KD(name).candidates == (name,)
        target = KD(name)(batch, snapshot_of(model, batch))
        tokens = batch.tgt_candidates[:, k]
        assert target.lengths.tolist() == (tokens != PAD).sum(1).tolist()
        assert target.tokens.shape == (2, int(target.lengths.max()))  # no column of padding alone
        assert torch.equal(target.tokens, tokens[:, : target.tokens.shape[1]])
        assert torch.equal(target.counts, target.tokens != PAD)
    assert calls.rows == []


def test_columns_of_padding_are_cut_from_the_canvas() -> None:
    tokens = torch.tensor([[7, 8, PAD], [9, PAD, PAD]])
    target = laid_out(pad_right(tokens, 3))
    assert target.tokens.tolist() == [[7, 8], [9, PAD]]
    assert target.counts.tolist() == [[True, True], [True, False]]
    assert torch.equal(target.reference, pad_right(tokens, 3))
