"""What is known before a run: recipes, shapes, estimates, rehearsals."""
