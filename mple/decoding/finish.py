"""From what a canvas says to the text: `<blank>` is removed, then repeats are.

    a <blank> a b b a   ->   a a b b a   ->   a b a

Repeats are looked for after the blanks are gone, since the reader of the text sees no blank between them.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mple.types import BLANK, PAD

DEDUPLICATE = ("none", "token", "word")


def without_blank(tokens: Int[Tensor, "N L"]) -> Int[Tensor, "N L"]:
    """The texts without `<blank>`, the empty token of AXE and CTC."""
    return _kept(tokens, tokens != BLANK)


def without_repeated_tokens(tokens: Int[Tensor, "N L"]) -> Int[Tensor, "N L"]:
    """Of consecutive equal tokens the first: a a b b a becomes a b a.

    Source: Lee et al. (2018), "removing the repeated tokens" (App. D); by token ids, as in DA-Transformer's
    code.
    """
    is_first = torch.ones_like(tokens, dtype=torch.bool)
    is_first[:, 1:] = tokens[:, 1:] != tokens[:, :-1]
    return _kept(tokens, is_first)


def without_repeated_words(tokens: Int[Tensor, "N L"], starts_word: Bool[Tensor, "V"]) -> Int[Tensor, "N L"]:
    """Of consecutive equal words the first. A word is a token that starts one (or is the text's first) and
    those up to the next such token; words are equal when their tokens are.

    "new new s" in the tokens ▁new new s keeps its repeat, which is inside of a word; "very very" in ▁ver y
    ▁ver y loses one, which no pair of neighbouring tokens shows.

    Source: Lee et al. (2018)'s code compares words after merging BPE. Here two segmentations of one word
    count as two words.
    """
    width = tokens.shape[1]
    if width == 0:
        return tokens
    is_content = tokens != PAD
    is_start = starts_word[tokens] & is_content
    is_start[:, 0] = is_content[:, 0]
    column = torch.arange(width, device=tokens.device).expand_as(tokens)
    start = torch.where(is_start, column, 0).cummax(1).values  # of the token's own word
    before = start.gather(1, (start - 1).clamp(min=0))  # of the word before
    length_before = start - before  # 0 before the first word, which so differs from it
    offset = column - start
    word = is_start.cumsum(1) - 1  # (N, L): number of the token's word, 0 before any
    lengths = torch.zeros_like(tokens).scatter_add_(1, word.clamp(min=0), is_content.long())
    same_length = lengths.gather(1, word.clamp(min=0)) == length_before
    twin = tokens.gather(1, (before + offset).clamp(max=width - 1))
    differs = ((tokens != twin) | ~same_length) & is_content
    differences = torch.zeros_like(tokens).scatter_add_(1, word.clamp(min=0), differs.long())
    return _kept(tokens, differences.gather(1, word.clamp(min=0)) > 0)


def _kept(tokens: Int[Tensor, "N L"], keep: Bool[Tensor, "N L"]) -> Int[Tensor, "N L"]:
    """The tokens where `keep` is True, moved to the left, `pad` behind them."""
    keep = keep & (tokens != PAD)
    width = tokens.shape[1]
    place = torch.where(keep, keep.cumsum(1) - 1, width)
    moved = torch.full((len(tokens), width + 1), PAD, device=tokens.device)
    return moved.scatter_(1, place, tokens)[:, :width]
