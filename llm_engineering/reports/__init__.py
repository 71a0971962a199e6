"""What steps hand on and report: folders with hashes, and pydantic values."""
