"""The forward pass without padding: rows one behind the other, and the prompt of a pair once."""
