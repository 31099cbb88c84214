"""Tests of hrnet_zoo.weights."""
