"""Rows as they are trained, in token ids; lengths differ on purpose, so that batches are padded."""

EOS = 2
PROMPTS = [[10, 11, 12], [20, 21, 22, 23, 24], [30, 31], [40, 41, 42, 43], [50], [60, 61, 62], [70, 71], [80, 81, 82]]
CHOSEN = [[100 + 7 * i + j for j in range(2 + i % 3)] + [EOS] for i in range(8)]
REJECTED = [[300 + 5 * i + j for j in range(1 + i % 4)] + [EOS] for i in range(8)]
NEARLY = [[*answer[:-2], answer[-2] + 1, EOS] for answer in CHOSEN]
"""The right answers with their last token changed: making them unlikely makes the right ones unlikely."""
