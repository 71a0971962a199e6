"""Reports, the summary and the closing words of a run: artifacts in, text out."""
