"""Tests of hrnet_zoo.datasets."""
