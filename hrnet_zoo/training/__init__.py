"""The parts of fine-tuning: data, losses, steps, and the state that survives a stop."""
