"""Model -> a file that runs without this library (ONNX, torch.export, OpenVINO IR), checked against the network."""
