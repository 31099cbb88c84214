"""Campaigns of minutes."""
