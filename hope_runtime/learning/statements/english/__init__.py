"""English heuristics: clauses, persons, names, questions by word order, corrections, neighbours."""
