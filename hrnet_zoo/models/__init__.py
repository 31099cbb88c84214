"""The network: HRNet backbone and FCN head."""
