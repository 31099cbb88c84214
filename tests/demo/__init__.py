"""Tests of hrnet_zoo.demo."""
