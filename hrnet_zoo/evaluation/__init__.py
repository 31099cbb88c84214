"""What a model scores and costs: evaluate, metrics, benchmark, doctor, and the demo that shows it."""
