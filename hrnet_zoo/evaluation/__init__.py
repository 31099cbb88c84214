"""Model -> figures: evaluate, metrics, benchmark, recommend, doctor, and the demo that scores itself."""
