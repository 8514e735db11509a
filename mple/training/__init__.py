"""Training in Lightning: the trainer, signals."""
