"""Peers, the libraries that a user would pick instead, one per module; a peer whose library is missing is left out."""
