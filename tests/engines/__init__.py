"""Tests of hrnet_zoo.engines."""
