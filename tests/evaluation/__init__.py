"""Tests of hrnet_zoo.evaluation."""
