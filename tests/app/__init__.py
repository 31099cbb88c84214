"""Tests of hrnet_zoo.app."""
