"""Normalized images -> logits at stride 4: HRNet backbones with the FCN head, created without initializing."""
