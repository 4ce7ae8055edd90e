"""How messages and vectors travel between a pool and its workers: sockets, and shared memory within a machine."""
