"""Tests of hrnet_zoo.models."""
