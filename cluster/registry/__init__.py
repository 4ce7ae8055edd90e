"""Registered models: what one consists of, how it is served, compared with the champion, described and published."""
