"""What measures one model: likelihoods, answers, checkers, judges, texts, metrics."""
