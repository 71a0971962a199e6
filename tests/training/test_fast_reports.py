"""What a stage's report says of its forward pass."""

import pytest

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.training.dpo import train_dpo
from llm_engineering.training.sft import train_sft


@pytest.mark.parametrize(("setting", "path"), [("auto", "fast"), ("off", "TRL's own: off by configuration")])
def test_report_says_which_path_ran(setting, path, make_inputs, sft_rows, preference_rows):
    _, sft = train_sft(SFTStageConfig(max_steps=1, fast_path=setting), make_inputs(sft_rows, "sft"))
    _, dpo = train_dpo(DPOStageConfig(max_steps=1, fast_path=setting), make_inputs(preference_rows, "dpo"))
    assert sft.path == dpo.path == path


def test_both_paths_end_at_the_same_weights(make_inputs, sft_rows, preference_rows, weights_of):
    for stage, config, rows in (
        (train_sft, SFTStageConfig(max_steps=5, batch_size=4, learning_rate=1e-3), sft_rows),
        (train_dpo, DPOStageConfig(max_steps=5, batch_size=4, learning_rate=1e-3), preference_rows),
    ):
        trained = []
        for setting in ("auto", "off"):
            inputs = make_inputs(rows, f"{stage.__name__}-{setting}")
            checkpoint, report = stage(config.model_copy(update={"fast_path": setting}), inputs)
            trained.append((weights_of(checkpoint), dict(report.series("loss"))))
        for name, values in trained[0][0].items():
            assert values.allclose(trained[1][0][name], rtol=0, atol=2e-5), name
        assert trained[0][1] == pytest.approx(trained[1][1], abs=1e-5)
