"""Tests of hrnet_zoo.exporting."""
