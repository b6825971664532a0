"""Measurements and endurance runs; nothing here is a test, and nothing here is installed."""
