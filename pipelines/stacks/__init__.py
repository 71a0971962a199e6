"""Remote stacks: registered, checked, submitted to, and rehearsed on one machine."""
