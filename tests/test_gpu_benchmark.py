"""The GPU benchmark skips without a GPU; its measurement itself also runs on a CPU."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")
pytest.importorskip("transformers", reason="the extra 'language' is not installed")
pytest.importorskip("peft", reason="the extra 'adapt' is not installed")

from benchmarks import _record, gpu  # noqa: E402

CPU = torch.device("cpu")
ENCODER = gpu.Shape(50, 16, 2, 4, 24, rows=4, length=8)
DECODER = replace(ENCODER, key_value_heads=2, head_dim=8)


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_record, "RESULTS", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main()
    assert capsys.readouterr().out == (
        "benchmarks.gpu: skipped, no CUDA device is available; gpu.json was not written\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [ENCODER, DECODER], ids=["encoder", "decoder"])
def test_full_training_and_adapters_are_measured(shape):
    with gpu.alone(CPU):
        full, lora = (
            gpu.measure(shape, lora=lora, is_compiled=False, device=CPU, warm_up=1, steps=2) for lora in (False, True)
        )
    for found in (full, lora):
        assert found["tokens_per_s"] == pytest.approx(32 / found["step_s"])
        assert found["tflop_per_s_estimated"] > 0
    assert 0 < lora["trained_parameters"] < full["trained_parameters"]


def test_flop_are_those_of_the_matrices_and_of_attention():
    for lora, passes in ((False, 3), (True, 2)):
        chain = gpu.chain_of_shape(ENCODER, lora=lora, device=CPU)
        per_layer = 2 * (4 * 16 * 16 + 2 * 16 * 24) + 4 * 8 * 16
        assert gpu.flop_per_token(chain, ENCODER, lora=lora) == passes * 2 * per_layer
    chain = gpu.chain_of_shape(DECODER, lora=False, device=CPU)
    per_layer = 2 * (2 * 16 * 32 + 2 * 16 * 16 + 3 * 16 * 24) + 4 * 4.5 * 32
    assert gpu.flop_per_token(chain, DECODER, lora=False) == 3 * 2 * per_layer


def test_the_decoder_is_of_the_published_size():
    chain = gpu.chain_of_shape(gpu.SHAPES["decoder"], lora=False, device=torch.device("meta"))
    parts = (chain.embeddings, chain.layers, chain.norm)
    assert sum(one.numel() for part in parts for one in part.parameters()) == 596_049_920
