"""The data as Lightning sees them: updates for training, batches for evaluation.

    data = TranslationData(source, "outputs/data", BPE(8000), max_length=100, max_tokens=4096, seed=1,
                           candidates=("base", "big", "raw"), distilled={"base": folder, "big": other})
    trainer = pl.Trainer(max_steps=100_000, val_check_interval=1000, check_val_every_n_epoch=None)
    trainer.fit(module, data)               # training_step receives list[Batch], validation_step one Batch

The training loader never ends: use `max_steps`, and a whole number for `val_check_interval`. Its k-th item is
update k of the run, whatever happened before, so a run resumed at step k continues exactly.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mple.bleu import pairwise_bleu
from mple.checks import UserError, one_of, whole
from mple.data.batching import TokenBuckets, evaluation_batches
from mple.data.candidates import RAW, Candidates, join
from mple.data.corpus import Corpus, Preparation, Prepared
from mple.data.text import SPLITS, Source
from mple.data.vocabulary import BPE, Vocabulary, Words
from mple.types import EOS, PAD, Batch


def collate(corpus: Corpus, rows: np.ndarray) -> Batch:
    """Sentences of a corpus as tensors, in the order of `rows`: eos after every source, targets bare."""
    src, lengths = corpus.tokens.padded("src", rows)
    src = np.pad(src, ((0, 0), (0, 1)), constant_values=PAD)
    src[np.arange(len(src)), lengths] = EOS
    tgt, _ = corpus.tokens.padded("tgt", rows)
    return Batch(
        ids=torch.from_numpy(corpus.tokens.numbers_at("line", rows)),
        src_tokens=torch.from_numpy(src),
        tgt_tokens=torch.from_numpy(tgt),
    )


def collate_candidates(candidates: Candidates, index: np.ndarray) -> Batch:
    """`collate` with the candidates of every sentence and their pairwise scores."""
    batch = collate(candidates.corpus, candidates.rows[index])
    return Batch(
        ids=batch.ids,
        src_tokens=batch.src_tokens,
        tgt_tokens=batch.tgt_tokens,
        tgt_candidates=torch.from_numpy(candidates.tokens(index)),
        candidate_scores=torch.from_numpy(np.array(candidates.scores[index])),
        candidate_names=candidates.names,
    )


class TranslationData(pl.LightningDataModule):
    """Raw text to batches.

    source: where the sentence pairs come from.
    root: folder of the prepared data; several runs may share it.
    vocabulary: how to learn the vocabularies.
    max_length: content tokens; training pairs with a longer side are dropped.
    max_ratio: training pairs with more than this many times as many content tokens on one side as on the
        other are dropped; None drops none.
    max_tokens: size of a micro-batch of one process, sentences × width, padding and eos included.
    accumulate: micro-batches of one process in an update.
    seed: of the order of training.
    candidates: what `Batch.tgt_candidates` holds, teachers or "raw"; () for the corpus alone.
    distilled: teacher -> folder with its targets in `train/` and `valid/` (see `DistilledWriter`).
    tokenize: how sentence BLEU between candidates splits text into words (`mple.bleu.TOKENIZERS`); by the
        target language `language(tgt_lang).sentence_tokenizer`.
    num_workers: processes that make batches; 0 makes them in the training process.
    vocabularies: those of source and target that a finished run has; None takes those of the text.

    Raises:
        UserError: a number is out of range, or a candidate has no folder.
    """

    def __init__(
        self,
        source: Source,
        root: str | Path,
        vocabulary: BPE | Words,
        max_length: int,
        max_tokens: int,
        max_ratio: float | None = None,
        accumulate: int = 1,
        seed: int = 0,
        candidates: Sequence[str] = (),
        distilled: Mapping[str, str | Path] | None = None,
        *,
        tokenize: str,
        num_workers: int = 0,
        vocabularies: tuple[Vocabulary, Vocabulary] | None = None,
    ):
        super().__init__()
        whole("accumulate", accumulate, 1, unit="micro-batches")
        whole("trainer.num_workers", num_workers, 0, unit="processes")
        whole("max_tokens", max_tokens, 1, unit="tokens")
        if max_tokens < max_length + 1:
            raise UserError(
                f"max_tokens must be at least data.max_length + 1 = {max_length + 1}; got {max_tokens}"
            )
        self.preparation = Preparation(source, Path(root), vocabulary, max_length, vocabularies, max_ratio)
        self.max_tokens, self.accumulate, self.seed, self.num_workers = (
            max_tokens,
            accumulate,
            seed,
            num_workers,
        )
        self.candidate_names = tuple(candidates)
        self.tokenize = tokenize
        self._distilled = {name: Path(folder) for name, folder in (distilled or {}).items()}
        for name in self.candidate_names:
            one_of("a name in data.candidates", name, [RAW, *self._distilled])
        self._prepared: Prepared | None = None
        self._candidates: dict[str, Candidates] = {}

    def prepare_data(self) -> None:
        """Build what is missing of vocabularies, corpora and candidate scores; on one process only."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Open what `prepare_data` has built."""
        if self._prepared is not None:
            return
        prepared = self.preparation.run()
        if self.candidate_names:
            for split in ("train", "valid"):
                self._candidates[split] = join(
                    prepared.corpora[split],
                    self.candidate_names,
                    {name: folder / split for name, folder in self._distilled.items()},
                    prepared.tgt_vocabulary,
                    self.preparation.root,
                    bleu=partial(pairwise_bleu, tokenize=self.tokenize),
                    bleu_name=f"sentence, {self.tokenize}",
                    max_length=self.preparation.max_length if split == "train" else None,
                    label=split,
                )
        self._prepared = prepared

    @property
    def prepared(self) -> Prepared:
        """Vocabularies and corpora; `setup` comes first."""
        if self._prepared is None:
            self.setup()
        assert self._prepared is not None
        return self._prepared

    @property
    def src_vocabulary(self) -> Vocabulary:
        return self.prepared.src_vocabulary

    @property
    def tgt_vocabulary(self) -> Vocabulary:
        """The same object as `src_vocabulary` when joint."""
        return self.prepared.tgt_vocabulary

    def corpus(self, split: str) -> Corpus:
        one_of("split", split, SPLITS)
        return self.prepared.corpora[split]

    def candidates(self, split: str) -> Candidates | None:
        """Candidates of a split; None for the test split or without `candidates`."""
        return self._candidates.get(split) if self.prepared else None

    def text(self, split: str) -> tuple[np.ndarray, list[str], list[str]]:
        """(line ids, raw sources, raw targets) of "valid" or "test", by corpus row: for BLEU."""
        corpus = self.corpus(split)
        return corpus.lines, *corpus.text()

    def decode(self, tokens: Int[Tensor, "B L"]) -> list[str]:
        """Target ids to text; special symbols are left out."""
        return self.tgt_vocabulary.decode_all(list(tokens.cpu().numpy()))

    def batches(
        self, split: str, rows: np.ndarray | None = None, max_tokens: int | None = None
    ) -> Iterator[Batch]:
        """Corpus rows (all by default) in batches of similar length, without candidates: for distilling and
        measuring. `Batch.ids` says which sentence is where."""
        corpus = self.corpus(split)
        rows = np.arange(len(corpus)) if rows is None else rows
        src, tgt = (lengths[rows] for lengths in corpus.lengths())
        for index in evaluation_batches(src, tgt, max_tokens or self.max_tokens):
            yield collate(corpus, rows[index])

    @cached_property
    def _buckets(self) -> TokenBuckets:
        _, (src, tgt) = self._view("train")
        return TokenBuckets(src, tgt, self.max_tokens, self.seed)

    def updates_per_epoch(self, world_size: int) -> float:
        """Updates of one pass over the training data by `world_size` processes."""
        return len(self._buckets) / (world_size * self.accumulate)

    def train_dataloader(self) -> "UpdateLoader":
        make, _ = self._view("train")

        def updates() -> Iterator[list[np.ndarray]]:
            return self._buckets.updates(self._world_size, self.accumulate, self._rank, self._step())

        return UpdateLoader(make, updates, self.num_workers, self._step)

    def val_dataloader(self) -> "EvaluationLoader":
        return self._evaluation("valid")

    def test_dataloader(self) -> "EvaluationLoader":
        return self._evaluation("test")

    def _evaluation(self, split: str) -> "EvaluationLoader":
        make, (src, tgt) = self._view(split)
        size = self.max_tokens
        batches = evaluation_batches(src, tgt, size)
        while len(batches) < self._world_size and size > 1:  # no process may stay without one
            size //= 2
            batches = evaluation_batches(src, tgt, size)
        return EvaluationLoader(make, batches[self._rank :: self._world_size], self.num_workers)

    def _view(self, split: str) -> tuple[Callable[[np.ndarray], Batch], tuple[np.ndarray, np.ndarray]]:
        """How to make a batch of a split from indices, and the lengths that the indices count."""
        if candidates := self.candidates(split):
            return partial(collate_candidates, candidates), candidates.lengths()
        corpus = self.corpus(split)
        return partial(collate, corpus), corpus.lengths()

    def _step(self) -> int:
        return self.trainer.global_step if self.trainer else 0

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1


class _Updates(Dataset[list[Batch]]):
    """Lists of index arrays in, lists of batches out."""

    def __init__(self, make: Callable[[np.ndarray], Batch]):
        self._make = make

    def __getitem__(self, update: list[np.ndarray]) -> list[Batch]:
        return [self._make(index) for index in update]


def _load(
    make: Callable[[np.ndarray], Batch], updates: Iterable[list[np.ndarray]], num_workers: int
) -> Iterator[list[Batch]]:
    loader = DataLoader(
        _Updates(make),
        sampler=updates,
        batch_size=None,  # an item of the sampler is a whole update
        num_workers=num_workers,
        collate_fn=_as_is,
        generator=torch.Generator(),  # else it would draw from the global one, and resuming would show
    )
    return iter(loader)


def _as_is(update: list[Batch]) -> list[Batch]:
    return update


class UpdateLoader:
    """An endless stream of updates that starts at the trainer's step whenever it is iterated.

    Not a DataLoader, so that Lightning injects no sampler, whatever `use_distributed_sampler` says.
    The place in the stream is the optimizer step, which the checkpoint holds already: `state_dict` says it
    again for Lightning, which asks loaders for one. (Counting what was handed out instead would be wrong by
    what Lightning prefetches.)
    """

    def __init__(
        self,
        make: Callable[[np.ndarray], Batch],
        updates: Callable[[], Iterator[list[np.ndarray]]],
        num_workers: int,
        step: Callable[[], int],
    ):
        self._make, self._updates, self._num_workers, self._step = make, updates, num_workers, step

    def __iter__(self) -> Iterator[list[Batch]]:
        return _load(self._make, self._updates(), self._num_workers)

    def state_dict(self) -> dict[str, int]:
        return {"update": self._step()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing to do: `__iter__` asks for the step."""


class EvaluationLoader:
    """This process' batches of a split, always the same in the same order."""

    def __init__(self, make: Callable[[np.ndarray], Batch], batches: list[np.ndarray], num_workers: int):
        self._make, self._batches, self._num_workers = make, batches, num_workers

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for (batch,) in _load(self._make, [[index] for index in self._batches], self._num_workers):
            yield batch
