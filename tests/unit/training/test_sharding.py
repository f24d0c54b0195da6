from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, fully_shard

from selfalign.training import lora, sharding
from selfalign.training.settings import Strategy, TrainerSettings, Training


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("cpu_offload", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_made_without_memory_and_filled_from_the_first_process_computes_the_same(
    tiny_model: Path, mesh: DeviceMesh, tied: bool, cpu_offload: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(tiny_model)
    config.tie_word_embeddings = tied
    base = AutoModelForCausalLM.from_config(config).eval()
    monkeypatch.setattr(lora, "empty_base", lambda folder: AutoModelForCausalLM.from_config(config))
    whole = lora.add_lora(base, Training(), TrainerSettings()).eval()
    with torch.device("meta"):
        model = lora.add_lora(lora.empty_base(tiny_model), Training(), TrainerSettings())
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    asked = []
    monkeypatch.setattr(
        sharding, "fully_shard", lambda *given, **more: asked.append(more) or fully_shard(*given, **more)
    )
    sharding.shard(model, whole, mesh, torch.device("cpu"), bf16=False, cpu_offload=cpu_offload)
    blocks = model.get_base_model().model.layers
    assert all(isinstance(block, FSDPModule) for block in blocks)
    # Every block and what is left. Memory is pinned for a GPU alone.
    assert len(asked) == len(blocks) + 1
    for given in asked:
        policy = given["offload_policy"]
        assert isinstance(policy, CPUOffloadPolicy) is cpu_offload and not getattr(policy, "pin_memory", False)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        expected, found = whole(input_ids=tokens).logits, model.eval()(input_ids=tokens).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, p in whole.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize("cpu_offload", [True, False])
def test_lightning_leaves_offloaded_shards_in_the_main_memory(
    cpu_offload: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = sharding.Sharded(TrainerSettings(strategy=Strategy.fsdp, devices=2, cpu_offload=cpu_offload), cuda=True)
    moved = []
    monkeypatch.setattr(sharding.ModelParallelStrategy, "model_to_device", lambda self: moved.append(self))
    strategy.model_to_device()
    assert bool(moved) is not cpu_offload
    # Norms and shards in the main memory are summed and gathered by gloo: NCCL cannot.
    assert strategy.process_group_backend == ("cpu:gloo,cuda:nccl" if cpu_offload else None)
