"""Parts b and c of `gpu.py`: images/s of a step, and what part of the device's time is arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from gpu_steps import (
    MINUTES,
    PAPER_IMAGES,
    RESNET,
    VIT,
    CrossEntropyStep,
    FastStep,
    GraphStep,
    Settings,
    View,
    against,
    fast_model,
    matrix_peak,
    random_views,
    seconds,
    synchronise,
)
from plain_step import PlainStep
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from rtk.models import Classifier

PLAIN_VIT, SURE_PLUS_VIT = 1200, 180  # images/s, goals for one H100


def measure_resnet(settings: Settings) -> bool:
    """Print images/s of ResNet-18's SURE+ step: plain fp32, rtk's eager, compiled and from graphs."""
    side, batch = RESNET.side[settings.small], RESNET.batch[settings.small]
    views = random_views(batch, side, RESNET.classes, settings.device, torch.float32)
    budget, rates = settings.seconds / 6, {}

    def report(name: str, build: Callable[[], Callable[[dict[str, View]], None]]) -> None:
        try:
            step = build()
            rates[name] = batch / seconds(lambda: step(views), settings.device, budget)
        except RuntimeError as error:  # of a compiler that is not there, or of a capture
            print(f"b  {RESNET.name}  {name:<10} failed: {str(error).strip().splitlines()[0]}", flush=True)
            return
        print(f"b  {RESNET.name}  {name:<10} {rates[name]:9.1f} images/s", flush=True)
        if name == "eager":
            share = host_share(lambda: step(views), settings.device)
            print(
                f"b  {RESNET.name}  {name:<10} {100 * share:.0f} % of a step is outside kernels", flush=True
            )

    report("plain fp32", lambda: _plain(settings))
    report("eager", lambda: _fast(settings))
    report("compiled", lambda: _fast(settings, compiled=True))
    if settings.device == "cuda":
        report("graphs", lambda: GraphStep(*_parts(settings), views))
    else:
        print(f"b  {RESNET.name}  graphs     need CUDA", flush=True)
    best = max(rate for name, rate in rates.items() if name != "plain fp32")
    minutes = PAPER_IMAGES / best / 60
    print(f"b  ratio of the fastest to plain fp32: {best / rates['plain fp32']:.2f}")
    line = against(minutes, MINUTES, "minutes", settings.small, least=False)
    print(f"b  200 epochs of 50,000 images at this speed: {line}", flush=True)
    return True


def _parts(settings: Settings) -> tuple[Classifier, torch.optim.Optimizer]:
    model = fast_model(RESNET, settings.device, settings.small)
    return model, RESNET.optimizer(model, fused=True)


def _plain(settings: Settings) -> PlainStep:
    torch.manual_seed(0)
    model = RESNET.build(settings.small).to(settings.device)
    return PlainStep(model, RESNET.optimizer(model))


def _fast(settings: Settings, compiled: bool = False) -> FastStep:
    model, optimizer = _parts(settings)
    if compiled:
        model.backbone.compile()
    return FastStep(model, optimizer)


def host_share(step: Callable[[], None], device: str, rounds: int = 5) -> float:
    """Share of a step's time in which no operator (on CUDA: no kernel) runs."""
    step()
    synchronise(device)
    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as seen:
        started = time.perf_counter()
        for _ in range(rounds):
            step()
        synchronise(device)
        total = time.perf_counter() - started
    kind = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    return max(0.0, 1 - sum(getattr(event, kind) for event in seen.key_averages()) / 1e6 / total)


def measure_vit(settings: Settings) -> bool:
    """Print images/s of ViT-L/16, plain and SURE+, with and without activation checkpointing."""
    side, batch = VIT.side[settings.small], VIT.batch[settings.small]
    views = random_views(batch, side, VIT.classes, settings.device, torch.float32)
    peak = matrix_peak(settings.device)
    print(f"c  matrix product, bf16: {peak / 1e12:.2f} TFLOP/s", flush=True)
    best: dict[str, float] = {}
    for checkpointing in (False, True):
        for name, kind in (("plain", CrossEntropyStep), ("SURE+", FastStep)):
            label = f"c  {VIT.name}  {name:<6} {'checkpointed' if checkpointing else 'all kept':<12}"
            try:
                figures = _measure_vit(kind, views, settings, checkpointing)
            except torch.OutOfMemoryError:
                print(f"{label} out of memory", flush=True)
                continue
            duration, flops, memory = figures
            best[name] = max(best.get(name, 0.0), batch / duration)
            share = 100 * flops / duration / peak
            print(f"{label} {batch / duration:8.1f} images/s  {memory:5.1f} GiB  {share:5.1f} %", flush=True)
    for name, goal in (("plain", PLAIN_VIT), ("SURE+", SURE_PLUS_VIT)):
        print(f"c  {VIT.name}  {name}: {against(best[name], goal, 'images/s', settings.small)}", flush=True)
    return True


def _measure_vit(
    kind: type[CrossEntropyStep] | type[FastStep],
    views: dict[str, View],
    settings: Settings,
    checkpointing: bool,
) -> tuple[float, float, float]:
    """Seconds a step, the FLOP that it needs (recomputation not counted), and peak memory in GiB."""
    model = fast_model(VIT, settings.device, settings.small)
    step = kind(model, VIT.optimizer(model, fused=True))
    one = {name: View(view.images[:1], view.targets[:1]) for name, view in views.items()}
    counted = FlopCounterMode(display=False)
    with counted:
        step(one)
    flops = counted.get_total_flops() * len(views["clean"].images)
    model.backbone.set_grad_checkpointing(checkpointing)
    if settings.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    duration = seconds(lambda: step(views), settings.device, settings.seconds / 6)
    memory = torch.cuda.max_memory_allocated() / 2**30 if settings.device == "cuda" else 0.0
    return duration, flops, memory
