"""Tests of hrnet_zoo: no internet, no shared state, data made here."""
