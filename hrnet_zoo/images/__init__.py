"""Files <-> arrays: read, resize and normalize any image, read label maps, write atomically, prefetch, progress."""
