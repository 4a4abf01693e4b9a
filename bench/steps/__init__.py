"""Measures of UNet forwards and steps: how long, how near the device's limit, on quiet and on busy cores."""
