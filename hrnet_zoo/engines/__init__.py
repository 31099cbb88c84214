"""What runs a network fast: a plan of it, and engines that carry the plan out on one kind of device."""
