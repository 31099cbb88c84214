"""In: a network and images, or folders of them. Out: results with masks, probabilities and overlays."""
