"""What a user would pick instead, one module a peer. Each is left out where its library is not installed."""
