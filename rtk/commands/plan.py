"""`rtk plan`: memory and communication of a recipe under every ZeRO stage."""

from __future__ import annotations

from dataclasses import asdict

from rtk.commands.output import print_json, print_table
from rtk.commands.parsers import Options, Parsers, add_command, add_json, positive


def add(commands: Parsers) -> None:
    """The parser of `rtk plan`."""
    parser = add_command(
        commands,
        "plan",
        run,
        "memory per rank and communication of a recipe under every ZeRO stage",
        """rtk plan resnet18_cifar100_sure_plus --gpus 1 --gpu-memory 24
        rtk plan my_recipe.yaml model.name=timm/vit_large_patch16_dinov3 --gpus 8 --gpu-memory 80""",
    )
    parser.add_argument("recipe", help="a shipped recipe (rtk recipes ls) or a YAML file")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="config values over the recipe's"
    )
    parser.add_argument("--gpus", type=positive, metavar="N", help="ranks (default: the recipe's workers)")
    parser.add_argument("--gpu-memory", type=float, default=80.0, metavar="GIB", help="of each (default: 80)")
    parser.add_argument("--classes", type=positive, metavar="C", help="default: those of data.train")
    add_json(parser)


def run(options: Options) -> int:
    """`rtk plan`."""
    from rtk.config.load import load_with_origins
    from rtk.train.plan import GIB, USABLE, count_classes, plan_recipe

    workers = [f"train.workers={options.gpus}"] if options.gpus else []
    config = load_with_origins(options.recipe, [*options.overrides, *workers], keep_unset=True).config
    plans = plan_recipe(config, options.classes or count_classes(config))
    memory = options.gpu_memory * GIB
    fitting = [stage.stage for stage in plans if stage.fits(memory)]
    if options.json:
        stages = [{**asdict(stage), "total": stage.total, "fits": stage.fits(memory)} for stage in plans]
        print_json(
            {"gpu_memory": round(memory), "stages": stages, "first_that_fits": next(iter(fitting), None)}
        )
        return 0
    rows = [["GiB a rank", *(f"ZeRO-{stage.stage}" for stage in plans)]]
    rows += [[name, *(f"{stage.parts[name] / GIB:.3g}" for stage in plans)] for name in plans[0].parts]
    rows.append(["total", *(f"{stage.total / GIB:.3g}" for stage in plans)])
    rows.append(
        [f"fits {options.gpu_memory:g} GiB", *("yes" if stage.fits(memory) else "no" for stage in plans)]
    )
    rows.append(["most alive in", *(stage.moment for stage in plans)])
    rows.append(["sent a step", *(f"{stage.communication / GIB:.3g}" for stage in plans)])
    share = config.train.batch_size // (config.train.workers * config.train.accumulation)
    print_table(f"{config.name}: {config.train.workers} ranks, {share} images per pass", rows)
    print(f"A stage fits where it fills at most {USABLE:.0%} of a device. Activations are an estimate.")
    if fitting:
        print(f"first that fits, and the fastest: train.zero_stage={fitting[0]}")
    else:
        print("No stage fits: take more GPUs, or cut a batch into micro-batches (train.accumulation).")
    return 0
