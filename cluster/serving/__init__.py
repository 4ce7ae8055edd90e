"""A registered model behind HTTP: adapts to each caller's examples and answers, callers of equal shapes together."""
