"""Measurements through Ray and of the server."""
