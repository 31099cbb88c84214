"""Tests of hrnet_zoo.zoo."""
