"""Remote stacks: what they are made of, how they are registered and checked, and their rehearsal on this machine."""
