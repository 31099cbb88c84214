"""Name -> model: the catalog, create_model, save_pretrained, the Hub, model cards, training logs."""
