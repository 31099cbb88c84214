"""Normalized images -> logits at stride 4: HRNet with the head of FCN or OCRNet, created without initializing."""
