"""Network -> the same function of the image, faster: a plan of fused steps, and an engine for each kind of device."""
