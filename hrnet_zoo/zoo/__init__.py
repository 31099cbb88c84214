"""Names -> models: the catalog; create, save, push and pull models; model cards and training logs."""
