"""A mistake in a bench command is one clear line, exit code 2, and nothing is written."""

from __future__ import annotations

import pytest

MISTAKES = {
    "an unknown mechanism": (["bench.mechanism=[gtaa]"], "Did you mean gta"),
    "heads that a mechanism does not choose": (["bench.mechanism=[mla-2]"], "is fixed"),
    "a word for a number of heads": (["bench.mechanism=[gqa-many]"], "gqa-4"),
    "heads that do not divide": (["bench.mechanism=[gqa-5]"], "use one of 1, 2, 4, 8, 16"),
    "no mechanism": (["bench.mechanism=[]"], "bench.mechanism=[]: needs at least 1 value"),
    "a mechanism twice": (["bench.mechanism=[gqa,gqa]"], "twice"),
    "a page that is too large": (["bench.page_size=[65]"], "from 1 to 64"),
    "a page of nothing": (["bench.page_size=[null,0]"], "from 1 to 64"),
    "a negative batch": (["bench.batch=[8,-1]"], "bench.batch=[8,-1]"),
    "a context of zero": (["bench.context=[0]"], "bench.context=[0]"),
    "a context longer than the memory": (["bench.context=[100000000000]"], "this machine has"),
    "an unknown kernel": (["bench.kernel=[cuda]"], "triton, cpu, reference, sdpa, matmul, flex"),
    "an unknown storage": (["bench.dtype=[fp8]"], "fp32, bf16"),
    "an unknown mode": (["mode=servng"], "Did you mean serving"),
    "an unknown device": (["device=tpu"], "device"),
    "a processor's kernel on a GPU": (
        ["device=cuda", "bench.kernel=[cpu]"],
        "use triton, sdpa, matmul, flex, flashinfer on cuda",
    ),
    "a GPU's kernel on the processor": (
        ["device=cpu", "bench.kernel=[triton]"],
        "use cpu, reference, sdpa, matmul, flex on cpu",
    ),
    "kernels that share no device": (
        ["bench.kernel=[cpu,triton]"],
        "on cuda or cpu, reference, sdpa, matmul, flex on cpu",
    ),
    "a processor's kernel for a model on a GPU": (
        ["mode=generate", "device=cuda", "bench.kernel=[cpu]"],
        "use triton, reference on cuda",
    ),
    "threads of a GPU": (["device=cuda", "bench.threads=[2]"], "bench.threads=[2]"),
    "ranks on a GPU": (["parallel=tensor", "device=cuda"], "use device=cpu"),
    "a device for a plan": (["mode=plan", "device=cuda"], "plan.device"),
    "a stock kernel for a whole model": (["mode=generate", "bench.kernel=[sdpa]"], "generate.peers=[own_dynamic]"),
    "an unknown peer": (["mode=generate", "generate.peers=[vllm]"], "own_dynamic, own_static_compiled"),
    "a peer twice": (["mode=generate", "generate.peers=[own_dynamic,own_dynamic]"], "twice"),
    "a policy for one layer": (["bench.policy=somewhere"], "mode=generate"),
    "a mean beyond the longest": (["mode=serving", "serving.output.mean=500"], "longest=256"),
    "no requests": (["mode=serving", "serving.requests=0"], "serving.requests=0"),
    "a budget of nothing": (["mode=serving", "serving.cache_megabytes=0"], "serving.cache_megabytes=0"),
    "a batch without end": (["mode=serving", "serving.largest_batch=1000000000"], "from 1 to 4,096"),
    "a number for a list": (["bench.context=4096"], "write 'bench.context=[4096]'"),
    "a policy that is no model": (["mode=generate", "bench.policy=nowhere"], "bench.policy=nowhere holds no model"),
    "a device that is not in the table": (["mode=plan", "plan.device=a100"], "h100, h200, b200, cpu"),
    "fp32 on an accelerator": (["mode=plan", "plan.weights=fp32"], "use bf16 or fp8"),
    "fp8 weights on a processor": (["mode=plan", "plan.device=cpu", "plan.weights=fp8"], "use fp32"),
    "a policy for a plan": (["mode=plan", "bench.policy=somewhere"], "model=llama_8b"),
    "devices that do not divide": (["mode=plan", "plan.devices=6"], "plan.devices=6"),
    "more active experts than there are": (["mode=plan_deepseek", "plan.experts.active=161"], "routed=160"),
    "experts without a number": (["mode=plan", "plan.experts.dim=8"], "needs plan.experts.routed"),
    "more dense layers than layers": (["mode=plan_deepseek", "plan.experts.dense_layers=61"], "model.layers=60"),
    "no memory to plan with": (["mode=plan", "plan.memory_share=0"], "above 0 and at most 1"),
    "more new tokens than context": (["mode=plan", "bench.query_length=[5000]"], "bench.query_length=[5000]"),
    "a misspelt key": (["bench.contxt=[1]"], "Did you mean bench.context"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message_with_exit_code_2_and_writes_nothing(mistake, rl_exp, tmp_path):
    words, expected = MISTAKES[mistake]
    result = rl_exp("bench", *words)
    assert result.exit_code == 2, result.output
    assert expected in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["attention", "generate", "serving"])
@pytest.mark.parametrize("model", ["small", "medium", "xl", "heads_128"])
def test_every_mode_and_shape_composes(mode, model, rl_exp):
    result = rl_exp("bench", f"mode={mode}", f"model={model}", "--dry-run")
    assert result.exit_code == 0, result.output
    assert f"mode: {mode}" in result.output
