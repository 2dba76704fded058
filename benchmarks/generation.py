"""Text generation of the local backend against a loop over `model.generate`, one prompt at a time.

`python -m benchmarks.generation MODEL` measures one model in this process and prints JSON.
`benchmarks.run --only generation` measures several, each in a process of its own, with the
processor's best instructions and with AVX2.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from backends.local import model_source
from backends.local.failures import is_out_of_memory
from backends.local.model import LoadedModel, ModelSpec, load_model, load_tokenizer
from backends.local.special_tokens import end_ids
from backends.model_packages import text_generation
from backends.model_packages.text_generation import GeneratedAnswer, GenerationSettings, text_of
from benchmarks import measure
from sweeps.data.builtin.nli import generate as generate_pairs

OURS, ONE_BY_ONE = "ours", "one by one"
INSTRUCTION_SETS = ("default", "avx2")
EXAMPLES, MAX_TOKENS, ROUNDS = 100, 128, 3

_MIN_EQUAL = 0.9
"""The least share of equal texts. Two ways of computing a batch differ by rounding, and a text
differs from there on where two tokens are almost equally probable.
"""
_MAX_WORDS = 60
_TIMEOUT_S = 3600.0


class DifferentTextsError(Exception):
    """The two ways do not write the same texts, so that their speeds are not comparable."""


def measure_model(
    name: str,
    examples: int = EXAMPLES,
    max_tokens: int = MAX_TOKENS,
    rounds: int = ROUNDS,
    threads: int = 0,
    *,
    may_end: bool = False,
) -> dict[str, Any]:
    """Measure both ways in turn on the same prompts.

    Each text has `max_tokens` tokens, unless it `may_end` by itself. Raises DifferentTextsError.
    """
    if threads:
        torch.set_num_threads(threads)
    model = _load(name)
    prompts = _prompts(model, examples)
    end_tokens = end_ids(model.tokenizer, model.module) if may_end else frozenset[int]()
    model.module.generation_config.eos_token_id = sorted(end_tokens) or None
    max_length = max(map(len, prompts)) + max_tokens
    settings = GenerationSettings(max_tokens, max_length, end_tokens)
    ways: dict[str, Callable[[Sequence[list[int]]], list[GeneratedAnswer]]] = {
        OURS: lambda chosen: text_generation.generate(model, chosen, settings, is_out_of_memory),
        ONE_BY_ONE: lambda chosen: [_one(model, prompt, settings) for prompt in chosen],
    }
    for way in ways.values():  # the first forward passes start the threads
        way(prompts[:2])
    runs: list[measure.TimedRun] = []
    cpu_seconds: dict[str, list[float]] = {way: [] for way in ways}
    answers: dict[str, list[GeneratedAnswer]] = {}
    for number in range(rounds):
        before = measure.calibrate()
        for way, generate in ways.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            answers[way] = generate(prompts)
            seconds = time.perf_counter() - start
            cpu_seconds[way].append(time.process_time() - cpu_start)
            after = measure.calibrate()
            runs.append(measure.TimedRun(way, number, seconds, before, after))
            before = after
    equal = sum(ours == other for ours, other in zip(answers[OURS], answers[ONE_BY_ONE], strict=True))
    if equal < _MIN_EQUAL * examples:
        raise DifferentTextsError(f"{name}: only {equal} of {examples} texts are equal")
    return {
        "model": Path(name).name,
        "parameters": sum(parameter.numel() for parameter in model.module.parameters()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "prompts": examples,
        "prompt_tokens": [min(map(len, prompts)), max(map(len, prompts))],
        "max_tokens": max_tokens,
        "may_end": may_end,
        "tokens": {way: sum(answer.tokens for answer in written) for way, written in answers.items()},
        "truncated": sum(answer.truncated for answer in answers[OURS]),
        "equal_texts": equal,
        "runs": [asdict(run) for run in runs],
        "cpu_seconds": cpu_seconds,
        "ratio": measure.ratios(runs, ONE_BY_ONE, OURS).to_json(),
        "cpu_ratio": min(cpu_seconds[ONE_BY_ONE]) / min(cpu_seconds[OURS]),
    }


def benchmark(models: Sequence[str], examples: int, max_tokens: int, rounds: int, threads: int = 0) -> dict[str, Any]:
    """Measure each model in a process of its own, under each of the instruction sets."""
    measured = []
    for model in models:
        for instructions in INSTRUCTION_SETS:
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                output = Path(folder) / "result.json"
                arguments = ["--examples", str(examples), "--max-tokens", str(max_tokens)]
                arguments += ["--rounds", str(rounds), "--threads", str(threads)]
                capability = {"ATEN_CPU_CAPABILITY": "" if instructions == "default" else instructions}
                measure.run_process(
                    measure.python("-m", "benchmarks.generation", model, *arguments), _TIMEOUT_S, capability, output
                )
                result = json.loads(output.read_text(encoding="utf-8"))
            measured.append(result)
            print(f"  {result['model']}, {result['instructions']}: {summary(result)}", flush=True)
    return {"models": measured}


def summary(result: dict[str, Any]) -> str:
    """Return one measurement as a line of text."""
    speeds = ", ".join(f"{way} {tokens_per_second(result, way):.0f} tokens/s" for way in (OURS, ONE_BY_ONE))
    median = result["ratio"]["median"]
    ratio = "no accepted pair" if median is None else f"{median:.1f}"
    return f"{speeds}; ratio of time {ratio}, of CPU seconds {result['cpu_ratio']:.1f}; {result['equal_texts']} equal"


def tokens_per_second(result: dict[str, Any], way: str) -> float:
    """Return the tokens per second of the fastest run of a way."""
    return float(result["tokens"][way] / min(run["seconds"] for run in result["runs"] if run["way"] == way))


def _load(name: str) -> LoadedModel:
    source = model_source.find(name)
    spec = ModelSpec(source, "causal-lm", torch.device("cpu"), torch.float32, torch.float32)
    return load_model(spec, load_tokenizer(source))


def _prompts(model: LoadedModel, count: int) -> list[list[int]]:
    """Return prompts of random words of the built-in pairs."""
    draw = random.Random(7)
    words = sorted({word for pair in generate_pairs("valid", 300, 7) for word in pair["premise"].split()})
    texts = [" ".join(draw.choices(words, k=draw.randint(3, _MAX_WORDS))) for _ in range(count)]
    encoded: list[list[int]] = model.tokenizer(texts, add_special_tokens=False)["input_ids"]
    return encoded


@torch.inference_mode()
def _one(model: LoadedModel, prompt: list[int], settings: GenerationSettings) -> GeneratedAnswer:
    ids = torch.tensor([prompt])
    whole: Any = model.module.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        use_cache=True,
        max_new_tokens=settings.max_tokens,
        pad_token_id=0,
    )
    tokens = whole[0, len(prompt) :].tolist()
    has_ended = tokens[-1] in settings.end_tokens
    tokens = tokens[:-1] if has_ended else tokens
    return GeneratedAnswer(text_of(model.tokenizer, prompt, tokens), len(tokens), not has_ended)


def main() -> None:
    """Measure one model and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generation", description=__doc__)
    parser.add_argument("model", help="builtin:tiny-lm, or the directory of a causal model")
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=0, help="0 is torch's default, all cores")
    parser.add_argument("--may-end", action="store_true", help="texts end by themselves, too")
    options = parser.parse_args()
    result = measure_model(
        options.model,
        options.examples,
        options.max_tokens,
        options.rounds,
        options.threads,
        may_end=options.may_end,
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
