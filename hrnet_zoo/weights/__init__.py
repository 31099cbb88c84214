"""row -> state dict: fetched, verified, looked into, converted once, then memory-mapped."""
