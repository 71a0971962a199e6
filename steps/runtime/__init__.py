"""What steps stand on: stores, work folders, context, inputs, tracking, facts, the registry, cache keys."""
