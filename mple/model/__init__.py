"""The Transformers. Whatever computes with one imports this first, so here the first calls are made."""

from mple.model.first_calls import make_first_calls

make_first_calls()
