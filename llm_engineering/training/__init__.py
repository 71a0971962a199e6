"""SFT and DPO by TRL's trainers, with the proofs, checkpoints and progress that every run has."""
