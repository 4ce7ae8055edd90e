"""Meta-gradients in C++ made for them: a recorded program is planned, translated, compiled and run task by task."""
