"""Image files <-> arrays: read any image or label map; resize, and normalize by mean and std; write; prefetch."""
