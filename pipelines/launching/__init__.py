"""From a configuration to a run: preparing, planning, packing, starting and following it."""
