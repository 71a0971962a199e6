"""Remote stacks: registered, checked, submitted to, and emulated on one machine."""
