"""Files <-> arrays: read any image, resize by fixed point, label maps and palettes, atomic writing, prefetching."""
