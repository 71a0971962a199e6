"""The library: data, models, training, evaluation and reports of an SFT and DPO pipeline, free of any orchestrator."""
