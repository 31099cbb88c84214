"""Image -> result (mask, probabilities, overlay and legend): sliding window, scales, argmax in bounded memory."""
