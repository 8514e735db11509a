"""The data module, alone and under a real Trainer."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from mple.checks import UserError
from mple.data.candidates import DistilledWriter
from mple.data.datamodule import TranslationData
from mple.data.grammar import Grammar
from mple.data.text import GrammarSource, LineFiles
from mple.data.vocabulary import BPE, Words
from mple.types import EOS, PAD, Batch

REAL = Path(__file__).parents[3] / "shared" / "data"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real corpora in {REAL}")
SOURCE = GrammarSource(Grammar(), train=400, valid=30, test=20)


def make(root: Path, **settings: object) -> TranslationData:
    defaults = {"vocabulary": Words(300), "max_length": 50, "max_tokens": 200, "seed": 1, "tokenize": "none"}
    return TranslationData(SOURCE, root, **(defaults | settings))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data with the "distilled" targets of one teacher: the references backwards."""
    root = tmp_path_factory.mktemp("data")
    data = make(root)
    for split in ("train", "valid"):
        writer = DistilledWriter(root / "reverse" / split, data.corpus(split), "reverse")
        for part in writer.missing():
            writer.write(part, [ids[::-1] for ids in data.corpus(split).tgt(writer.rows(part))])
        writer.finish()
    return root


class Recorder(pl.LightningModule):
    """Trains one weight on nothing and writes down what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.updates: list[list[list[int]]] = []
        self.evaluated: list[int] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, update: list[Batch], _: int) -> torch.Tensor:
        assert all(isinstance(batch, Batch) for batch in update)
        self.updates.append([batch.ids.tolist() for batch in update])
        return self.weight * sum(len(batch) for batch in update)

    def validation_step(self, batch: Batch, _: int) -> None:
        self.evaluated += batch.ids.tolist()

    test_step = validation_step


def trainer(folder: Path, **settings: object) -> pl.Trainer:
    defaults = {"max_epochs": -1, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0, "logger": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(default_root_dir=folder, **(defaults | quiet | settings))  # type: ignore[arg-type]


def test_batches_follow_the_conventions(root: Path) -> None:
    data = make(root)
    src_texts, tgt_texts = {}, {}
    for line, src, tgt in SOURCE.pairs("train"):
        src_texts[line], tgt_texts[line] = src, tgt
    (batch,) = next(iter(data.train_dataloader()))
    assert batch.src_tokens.dtype == batch.tgt_tokens.dtype == batch.ids.dtype == torch.int64
    assert batch.tgt_candidates is None
    assert batch.candidate_names == ()
    for line, src, tgt in zip(batch.ids.tolist(), batch.src_tokens, batch.tgt_tokens, strict=True):
        content = src[src != PAD]
        assert content[-1] == EOS
        assert (content == EOS).sum() == 1
        assert (src[len(content) :] == PAD).all()
        assert EOS not in tgt
        assert (tgt[: (tgt != PAD).sum()] != PAD).all()
        assert data.src_vocabulary.decode(src) == src_texts[line]
    assert data.decode(batch.tgt_tokens) == [tgt_texts[line] for line in batch.ids.tolist()]
    assert (batch.src_tokens != PAD).any(0).all()  # no column of padding only
    assert (batch.tgt_tokens != PAD).any(0).all()


def test_candidates_in_batches(root: Path) -> None:
    data = make(root, candidates=("raw", "reverse"), distilled={"reverse": root / "reverse"})
    assert data.candidate_names == ("raw", "reverse")
    for batch in (next(iter(data.train_dataloader()))[0], next(iter(data.val_dataloader()))):
        assert batch.candidate_names == ("raw", "reverse")
        assert batch.tgt_candidates is not None
        assert batch.candidate_scores is not None
        assert batch.candidate_scores.dtype == torch.float32
        assert torch.equal(batch.tgt_candidates[:, 0], batch.tgt_tokens)
        for raw, reverse in zip(
            data.decode(batch.tgt_tokens), data.decode(batch.tgt_candidates[:, 1]), strict=True
        ):
            assert reverse.split() == raw.split()[::-1]
        assert (torch.diagonal(batch.candidate_scores, dim1=1, dim2=2) == 100).all()
        assert batch.candidate_scores[:, 0, 1].max() < 100
    assert next(iter(data.test_dataloader())).tgt_candidates is None


def test_evaluation_sees_every_sentence_once(root: Path) -> None:
    data = make(root)
    for split, loader in (("valid", data.val_dataloader()), ("test", data.test_dataloader())):
        batches = list(loader)
        assert len(loader) == len(batches) > 1
        lines, src, tgt = data.text(split)
        ids = torch.cat([batch.ids for batch in batches])
        assert sorted(ids.tolist()) == lines.tolist()
        outputs = [text for batch in batches for text in data.decode(batch.tgt_tokens)]
        by_row = dict(zip(data.corpus(split).rows(ids.numpy()).tolist(), outputs, strict=True))
        vocabulary = data.tgt_vocabulary
        known = vocabulary.decode_all(vocabulary.encode(tgt))  # rare words are unknown to it
        assert [by_row[row] for row in range(len(tgt))] == known
        assert [(src, tgt) for _, src, tgt in SOURCE.pairs(split)] == list(zip(src, tgt, strict=True))


def test_rows_in_batches_for_a_teacher(root: Path) -> None:
    data = make(root, candidates=("raw",))
    rows = np.arange(100, 180)
    batches = list(data.batches("train", rows, max_tokens=100))
    assert sorted(torch.cat([batch.ids for batch in batches]).tolist()) == rows.tolist()
    assert all(batch.src_tokens.numel() <= 100 for batch in batches)
    assert sum(map(len, data.batches("valid"))) == 30


@pytest.mark.filterwarnings("error::pytorch_lightning.utilities.warnings.PossibleUserWarning")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_trainer_resumes_at_its_step(root: Path, tmp_path: Path, num_workers: int) -> None:
    def data() -> TranslationData:
        return make(root, accumulate=2, num_workers=num_workers)

    straight, first, second = Recorder(), Recorder(), Recorder()
    trainer(tmp_path, max_steps=6, enable_checkpointing=False).fit(straight, data())
    stopped = trainer(tmp_path, max_steps=3, enable_checkpointing=False)
    stopped.fit(first, data())
    stopped.save_checkpoint(tmp_path / "last.ckpt")
    resumed = trainer(tmp_path, max_steps=6, enable_checkpointing=False)
    resumed.fit(second, data(), ckpt_path=tmp_path / "last.ckpt")
    assert len(straight.updates) == 6
    assert all(len(update) == 2 for update in straight.updates)
    assert first.updates + second.updates == straight.updates
    assert torch.load(tmp_path / "last.ckpt")["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [
        {"update": 3}
    ]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_checkpoint_at_validation_resumes_exactly(root: Path, tmp_path: Path) -> None:
    straight, resumed = Recorder(), Recorder()
    checkpoint = pl.callbacks.ModelCheckpoint(
        tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=2
    )
    trainer(tmp_path, max_steps=7, val_check_interval=2, callbacks=[checkpoint]).fit(straight, make(root))
    again = trainer(tmp_path, max_steps=7, val_check_interval=2, enable_checkpointing=False)
    again.fit(resumed, make(root), ckpt_path=tmp_path / "step=4.ckpt")
    assert resumed.updates == straight.updates[4:]
    assert len(straight.evaluated) == 3 * 30
    trainer(tmp_path, enable_checkpointing=False).test(resumed, make(root))
    assert sorted(resumed.evaluated[-20:]) == list(range(20))


def test_loading_leaves_the_global_generator_alone(root: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    next(iter(make(root).train_dataloader()))
    assert torch.rand(1) == expected


def test_ranks_share_updates_and_evaluation(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ids(world_size: int, rank: int, accumulate: int) -> tuple[list[list[list[int]]], list[int]]:
        monkeypatch.setattr(TranslationData, "_world_size", world_size)
        monkeypatch.setattr(TranslationData, "_rank", rank)
        data = make(root, accumulate=accumulate)
        updates = [[batch.ids.tolist() for batch in update] for update in islice(data.train_dataloader(), 40)]
        return updates, [line for batch in data.val_dataloader() for line in batch.ids.tolist()]

    alone, evaluated = ids(1, 0, 2)
    (left, left_evaluated), (right, right_evaluated) = ids(2, 0, 1), ids(2, 1, 1)
    assert [a + b for a, b in zip(left, right, strict=True)] == alone
    assert sorted(left_evaluated + right_evaluated) == sorted(evaluated)


def test_no_process_stays_without_a_batch_of_evaluation(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning refuses an empty loader, and would do so after all of training."""
    expected = sorted(line for batch in make(root).val_dataloader() for line in batch.ids.tolist())
    alone = make(root, max_tokens=1_000_000).val_dataloader()
    assert len(alone) == 1
    seen: list[int] = []
    for rank in range(5):
        monkeypatch.setattr(TranslationData, "_world_size", 5)
        monkeypatch.setattr(TranslationData, "_rank", rank)
        loader = make(root, max_tokens=1_000_000).val_dataloader()
        assert len(loader) >= 1
        seen += [line for batch in loader for line in batch.ids.tolist()]
    assert sorted(seen) == expected


def test_errors(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^max_tokens must be at least data\.max_length \+ 1 = 51; got 50"):
        make(root, max_tokens=50)
    with pytest.raises(UserError, match=r"^accumulate \(micro-batches\) must be a whole number"):
        make(root, accumulate=0)
    with pytest.raises(UserError, match=r"a name in data\.candidates must be one of raw, reverse; got 'big'"):
        make(root, candidates=("big",), distilled={"reverse": root / "reverse"})
    with pytest.raises(UserError, match=r"none/train must hold distilled targets"):
        make(root, candidates=("big",), distilled={"big": tmp_path / "none"}).prepare_data()
    with pytest.raises(UserError, match="split must be one of"):
        make(root).corpus("dev")


@pytest.mark.real
@needs_real
def test_multi30k(tmp_path: Path) -> None:
    source = LineFiles(str(REAL / "multi30k"), "de", "en", valid="val", test="test_2016_flickr")
    data = TranslationData(source, tmp_path, BPE(8000), max_length=100, max_tokens=4096, tokenize="13a")
    epoch = len({line for (batch,) in islice(data.train_dataloader(), 200) for line in batch.ids.tolist()})
    assert epoch == 29_000
    lines, _, tgt = data.text("test")
    assert len(lines) == len(tgt) == 1000
