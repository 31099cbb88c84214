"""Tests of hrnet_zoo.cli."""
