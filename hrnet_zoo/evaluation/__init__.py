"""Model -> figures: evaluate, metrics, benchmark, doctor, and the demo that scores itself."""
