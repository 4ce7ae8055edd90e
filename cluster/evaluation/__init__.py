"""Evaluation on held-out tasks: scores, intervals and the protocol in words."""
