"""Step trees: Monte-Carlo search over the steps of a solution, and what is made of it."""
