"""The forward pass without padding: rows one behind the other, a pair's prompt once, adapters as one operation a layer."""
