"""Labeled images -> your model: the training loop, its configuration, losses, augmentation, state and sheets."""
