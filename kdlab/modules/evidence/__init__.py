"""Evidence for selection strategies: the outputs of the student, cached answers of the teachers, votes of committees."""
