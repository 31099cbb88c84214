"""Tests of hrnet_zoo.images."""
