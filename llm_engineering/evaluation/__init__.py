"""What the models can do: generated answers, held-out rows, preferences; and which model is promoted."""
