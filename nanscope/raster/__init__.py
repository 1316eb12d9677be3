"""Plots in character cells: arrays in, cells out. Knows neither runs nor terminals."""
