import pytest
from llm_engineering.config.schema import DPOStageConfig, SFTStageConfig, TorchrunHardware, LoraAdapter
from llm_engineering.training.launcher import train_dpo, train_sft

TWO = TorchrunHardware(processes=2, strategy="ddp")

def test_sft(sft_rows, make_inputs):
    config = SFTStageConfig(batch_size=2, max_steps=6, logging_steps=1, save_steps=3, learning_rate=1e-2)
    import time
    alone, one = train_sft(config, make_inputs(sft_rows, "one"))
    t=time.time()
    shared, two = train_sft(config, make_inputs(sft_rows, "two", hardware=TWO))
    print(time.time()-t)
    for a, b in zip(one.history, two.history):
        print({k:(v, b.get(k)) for k, v in a.items() if k in ("loss","grad_norm","eval_loss","num_tokens", "entropy")})
    print(two.hardware, two.path, one.metrics, two.metrics)
