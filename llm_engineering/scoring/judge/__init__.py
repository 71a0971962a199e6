"""A language model that judges answers: what it is asked, how it is reached, how its replies are read."""
