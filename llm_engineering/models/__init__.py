"""Models on disk and in memory: load, save, chat template, adapters, merge, generation."""
