"""The Transformers."""
