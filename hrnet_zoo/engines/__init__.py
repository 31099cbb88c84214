"""Model -> the same model, faster: a plan with folded batch norm, run by an engine for each kind of device."""
