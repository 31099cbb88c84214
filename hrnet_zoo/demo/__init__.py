"""Generated street scenes: pictures with exact labels for a default that needs no network."""
