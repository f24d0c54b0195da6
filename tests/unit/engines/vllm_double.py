"""The part of vLLM 0.33.0 that `engine=vllm` calls, with the model of the stub server behind it: names, arguments, refusals and
results are those of its files sampling_params.py, outputs.py, logprobs.py, lora/request.py, v1/engine/llm_engine.py."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from selfalign.engines.model import raw_tokenizer
from tests.unit.engines.stub_server import Stub, logprob


@dataclass
class SamplingParams:
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    max_tokens: int | None = 16
    prompt_logprobs: int | None = None
    detokenize: bool = True
    logit_bias: dict[int, float] | None = None

    def __post_init__(self) -> None:
        assert self.temperature >= 0 and 0 < self.top_p <= 1 and self.top_k >= 0 and 0 <= self.min_p <= 1
        assert self.max_tokens is not None and self.max_tokens >= 1 and all(self.stop)
        assert self.seed is None or 0 <= self.seed < 2**63


@dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""

    def __post_init__(self) -> None:
        assert self.lora_int_id >= 1 and self.lora_path


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None
    stop_reason: int | str | None


@dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    finished: bool


@dataclass
class EngineCore:
    is_down: bool = False

    def shutdown(self, timeout: float | None = None) -> None:
        self.is_down = True


class LLMEngine:
    """A step writes one token of every request at work."""

    def __init__(self, folder: str, max_model_len: int, max_num_seqs: int) -> None:
        self.engine_core = EngineCore()
        self.asked: list[tuple[str, list[int], SamplingParams, LoRARequest | None]] = []
        self.aborted: list[str] = []
        self.most_at_once = 0
        self._tokenizer = raw_tokenizer(Path(folder))
        self._most = max_model_len
        self._seqs = max_num_seqs
        self._at_work: dict[str, tuple[int, RequestOutput]] = {}

    def add_request(
        self, request_id: str, prompt: dict[str, Any], params: SamplingParams, lora_request: LoRARequest | None = None
    ) -> str:
        ids = prompt["prompt_token_ids"]
        if not 0 < len(ids) < self._most:
            raise ValueError(f"The decoder prompt (length {len(ids)}) is longer than the maximum model length")
        assert request_id not in self._at_work and not self.engine_core.is_down
        self.asked.append((request_id, ids, params, lora_request))
        self._at_work[request_id] = self._written(request_id, ids, params)
        self.most_at_once = max(self.most_at_once, len(self._at_work))
        return request_id

    def _written(self, request_id: str, ids: list[int], params: SamplingParams) -> tuple[int, RequestOutput]:
        """What comes out in the end, and after how many steps."""
        prompt = self._tokenizer.decode(ids, skip_special_tokens=False)
        body = {
            "prompt": prompt,
            "seed": params.seed or 0,
            "temperature": params.temperature,
            "max_tokens": params.max_tokens,
            "stop": params.stop,
        }
        answer = Stub().complete(body)
        choice, used = answer["choices"][0], answer["usage"]["completion_tokens"]
        why = choice["stop_reason"]
        if choice["finish_reason"] == "stop" and why is None:
            # The end token is named where it is among the ids to stop at.
            (why,) = params.stop_token_ids
        text = choice["text"] if params.detokenize else ""
        output = CompletionOutput(0, text, [0] * used, choice["finish_reason"], why)
        rows: list[dict[int, Logprob] | None] | None = None
        if params.prompt_logprobs is not None:
            values = [logprob(ids[:at], ids[at]) for at in range(1, len(ids))]
            found = zip(ids[1:], values, strict=True)
            rows = [None, *({token: Logprob(value, 1 if value == -0.25 else 7)} for token, value in found)]
        return used, RequestOutput(request_id, ids, rows, [output], finished=True)

    def step(self) -> list[RequestOutput]:
        found = []
        for request_id, (left, output) in list(self._at_work.items())[: self._seqs]:
            self._at_work[request_id] = left - 1, output
            if left == 1:
                found.append(output)
                del self._at_work[request_id]
            else:
                unfinished = CompletionOutput(0, "", [], None, None)
                found.append(RequestOutput(request_id, output.prompt_token_ids, None, [unfinished], finished=False))
        return found

    def abort_request(self, request_ids: list[str], internal: bool = False) -> None:
        self.aborted += request_ids
        for request_id in request_ids:
            del self._at_work[request_id]


class LLM:
    made: list[LLM] = []
    """Every one since `put_in`."""
    error: Exception | None = None
    """Raised instead of starting."""

    def __init__(
        self,
        model: str,
        *,
        dtype: str,
        max_model_len: int,
        max_num_seqs: int,
        gpu_memory_utilization: float,
        tensor_parallel_size: int,
        enable_prefix_caching: bool,
        generation_config: str,
        enable_lora: bool = False,
        max_loras: int = 1,
        max_lora_rank: int = 16,
    ) -> None:
        if self.error is not None:
            raise self.error
        self.options = {name: value for name, value in locals().items() if name != "self"}
        self.llm_engine = LLMEngine(model, max_model_len, max_num_seqs)
        LLM.made.append(self)


def put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `import vllm` find the double, for the length of a test."""
    content = {
        "vllm": {"LLM": LLM},
        "vllm.inputs": {"TokensPrompt": dict},
        "vllm.sampling_params": {"SamplingParams": SamplingParams},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": LoRARequest},
    }
    for name, attributes in content.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(LLM, "made", [])
    monkeypatch.setattr(LLM, "error", None)
