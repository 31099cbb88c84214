"""Labeled images -> your model: augmented batches, losses, updates by a schedule, validation, and resuming."""
