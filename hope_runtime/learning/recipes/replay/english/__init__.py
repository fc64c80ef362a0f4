"""English heuristics of the replay recipe: clauses, persons, names, questions."""
