"""Labeled images -> your model: config (with the learning-rate schedule), losses, augmentation, trainer, state."""
