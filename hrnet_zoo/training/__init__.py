"""A network and labeled images -> a model folder with a log, and a state to resume from."""
