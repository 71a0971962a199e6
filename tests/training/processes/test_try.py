import pytest, sys, os, time
from llm_engineering.config.schema import *
from llm_engineering.training.launcher import train_dpo, train_sft
from pathlib import Path

def show(one, two):
    for a, b in zip(one.history, two.history):
        for k in a:
            if abs(a[k]-b.get(k, 1e9)) > 2e-4*max(1,abs(a[k])) and 'runtime' not in k and 'per_second' not in k:
                print("DIFF", a["step"], k, a[k], b.get(k))
    print(two.hardware, two.path, one.path, [e["loss"] for e in two.history if "loss" in e], [e["grad_norm"] for e in two.history if "grad_norm" in e])
    print([e.get("eval_loss") for e in two.history])

@pytest.mark.parametrize("strategy", os.environ.get("S","ddp").split(","))
@pytest.mark.parametrize("stage", os.environ.get("STAGE","sft,dpo").split(","))
@pytest.mark.parametrize("adapter", os.environ.get("A","lora").split(","))
def test(stage, strategy, adapter, sft_rows, preference_rows, make_inputs, monkeypatch, weights_of, tmp_path):
    if strategy != "ddp":
        monkeypatch.syspath_prepend(str(Path(__file__).parent / "sharding_on_cpu"))
        from llm_engineering.training import launcher
        monkeypatch.setattr(launcher, "require_devices", lambda h: None)
    from llm_engineering.data.rowsets import PREFERENCE, SFT, write_rows, read_rows
    rows, kind = (sft_rows, SFT) if stage == "sft" else (preference_rows, PREFERENCE)
    every = list(read_rows(rows, "train"))
    ragged = write_rows(tmp_path / "ragged", {"train": every[:7], "eval": every[2:5]}, kind)
    adapter = LoraAdapter(r=4, alpha=8) if adapter == "lora" else FullFineTuning()
    common = dict(batch_size=2, accumulation=3, epochs=2, logging_steps=1, save_steps=3, learning_rate=1e-2, evaluation_steps=3)
    if os.environ.get("B"): common["batch_size"]=int(os.environ["B"])
    if stage == "sft": config, train, rows = SFTStageConfig(**common), train_sft, 0
    else: config, train, rows = DPOStageConfig(**common, nll_weight=0.5, reference=os.environ.get("REF","auto")), train_dpo, 0
    alone, one = train(config, make_inputs(ragged, "one", adapter=adapter))
    t=time.time()
    shared, two = train(config, make_inputs(ragged, "two", adapter=adapter, hardware=TorchrunHardware(processes=2, strategy=strategy)))
    print(time.time()-t)
    show(one, two)
    print(two.reference)
    if adapter.type == "lora":
        a, b = weights_of(alone), weights_of(shared)
        assert a.keys() == b.keys()
        print("weights", max((a[k]-b[k]).abs().max() for k in a))
    print(os.listdir(shared.path), os.listdir(shared.path.parent))
