"""Files <-> arrays: read and resize any image, read label maps, write files atomically, prefetch, show progress."""
