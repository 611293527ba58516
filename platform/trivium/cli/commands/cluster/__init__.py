"""Sending commands to a Ray cluster."""
