"""The benchmark: how well the estimate, and what rests on it, does on patients whose truth is known."""
