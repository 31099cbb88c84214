"""Image -> result: resize, sliding window, scales and flips, argmax in bounded memory, overlay and legend."""
