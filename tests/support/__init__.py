"""What tests share: servers, checkpoints, made images, campaigns."""
