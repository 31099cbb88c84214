"""Seed -> street scene with exact labels; the bundled checkpoint trained on such scenes."""
