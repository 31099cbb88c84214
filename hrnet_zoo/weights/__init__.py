"""Address or file -> verified tensors: download, cache, scan without unpickling, convert to safetensors, map."""
