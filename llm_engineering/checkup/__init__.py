"""What this machine has of what a run needs: small checks, each on its own, that change nothing."""
