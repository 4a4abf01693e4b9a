"""Measures. Each bench prints a table with units and ratios and writes JSON to bench/results/."""
