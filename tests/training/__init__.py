"""Tests of hrnet_zoo.training."""
