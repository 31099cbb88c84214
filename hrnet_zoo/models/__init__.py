"""In: normalized RGB images. Out: logits, by an HRNet backbone with an FCN head."""
