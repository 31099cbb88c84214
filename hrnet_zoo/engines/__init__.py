"""Model -> the same model, faster: folded and fused steps, run by an engine for each kind of device."""
