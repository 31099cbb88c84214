"""Tests of hrnet_zoo.inference."""
