"""Adapting a model to a task in files: tables, pictures or arrays in, predictions and adapted weights out."""
