"""Image -> result: resize, logits, sliding window, scales and flips, argmax in bounded memory, what is shown."""
