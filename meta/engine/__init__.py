"""Executing meta-gradients fast: strategies and their choice, recording, compiled programs."""
