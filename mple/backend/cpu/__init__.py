"""On a CPU: padding is left out, products and what follows them are one call, gradients are written out."""

from mple.backend.cpu.attention import attend as attend
from mple.backend.cpu.dropout import add_dropout as add_dropout
from mple.backend.cpu.dropout import dropout as dropout
from mple.backend.cpu.first_calls import make_first_calls
from mple.backend.cpu.linear import linear as linear
from mple.backend.cpu.loss import linear_cross_entropy as linear_cross_entropy
from mple.backend.cpu.packing import hide_padding as hide_padding
from mple.backend.cpu.packing import rows as rows
from mple.backend.cpu.packing import split_heads as split_heads
from mple.backend.cpu.vocabulary import most_probable as most_probable
from mple.backend.cpu.vocabulary import normalisers as normalisers
from mple.backend.cpu.vocabulary import normalisers_and_most_probable as normalisers_and_most_probable

make_first_calls()
