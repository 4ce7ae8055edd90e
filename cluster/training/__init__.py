"""Meta-training: the loop, the learner, the outer step, reduction and recorder."""
