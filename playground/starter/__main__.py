"""Command line of the recipe: train, evaluate, speed, sheet."""

import argparse
import dataclasses
import logging
import sys
from pathlib import Path

from playground.errors import InvalidInput, PlaygroundError
from playground.starter.presets import PRESETS

STAGES = ("vae", "clip", "classifier", "unet", "decoder")


def stage_steps(text: str) -> tuple[str, int]:
    """``unet=8000`` as the preset's field and its value."""
    stage, _, number = text.partition("=")
    if stage not in STAGES or not number.isdigit() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"write STAGE=N with a stage of {', '.join(STAGES)} and N ≥ 1")
    return f"{stage}_steps", int(number)


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    top = argparse.ArgumentParser(prog="python -m playground.starter", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="build the data, train, evaluate; goes on where it stopped")
    train.add_argument("--preset", choices=PRESETS, default="cpu")
    train.add_argument(
        "--out", type=Path, required=True, help="folder of the finished model and its checkpoint"
    )
    train.add_argument("--data", type=Path, help="folder for icon packages (default: OUT/data)")
    train.add_argument("--from", dest="begin", type=Path, metavar="MODEL",
                       help="train the U-Net of this finished model further; --steps unet=N counts its steps too")  # fmt: skip
    train.add_argument("--until", choices=(*STAGES, "end"), default="end", help="stop after this stage")
    train.add_argument("--threads", type=int, default=0, help="CPU threads; 0 follows the machine's load")
    train.add_argument("--steps", action="append", default=[], metavar="STAGE=N", type=stage_steps,
                       help="steps of a stage instead of the preset's, e.g. unet=8000; may be repeated")  # fmt: skip
    train.add_argument(
        "--names", type=int, help="let the U-Net learn the first so many names only; more later"
    )
    train.add_argument(
        "--note", default="", help="a sentence for the model card about how this one was trained"
    )
    train.add_argument("--no-evaluation", action="store_true")
    for name, text in (
        ("evaluate", "measure a finished model, and write its card anew"),
        ("speed", "measure its speed alone, on a machine that is idle, and write its card anew"),
        ("sheet", "draw its contact sheet"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("folder", type=Path)
    return top


def run_training(args: argparse.Namespace) -> None:
    from playground.starter import icons, optimise, train

    preset = PRESETS[args.preset]
    preset = dataclasses.replace(preset, **dict(args.steps))
    if args.names is not None:
        if not 2 <= args.names <= preset.nouns:
            raise InvalidInput(f"--names must be between 2 and {preset.nouns}.", "names")
        share = args.names / preset.nouns
        preset = dataclasses.replace(preset, drawn=args.names, pool=round(preset.pool * share))
    print(f"Preset {preset.name}: {preset.minutes}. It can be stopped and started again.")
    optimise.join()
    with optimise.first_process():
        data = icons.build(args.data or args.out / "data", preset.nouns, preset.extra)

    def log(line: str) -> None:
        if optimise.rank() == 0:
            print(line, flush=True)

    train.train(preset, data, args.out, begin=args.begin, until=args.until, threads=args.threads,
                note=args.note, log=log)  # fmt: skip
    if args.until == "end" and not args.no_evaluation and optimise.rank() == 0:
        from playground.starter import card, evaluate

        evaluate.evaluate(args.out, log=log)
        evaluate.sheet(args.out)
        card.write(args.out)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 for a wrong input, 1 for another failure."""
    args = parser().parse_args(arguments)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        if args.command == "train":
            run_training(args)
        else:
            from playground.starter import card, evaluate

            {"evaluate": evaluate.evaluate, "speed": evaluate.speed_alone, "sheet": evaluate.sheet}[
                args.command
            ](args.folder)
            if args.command != "sheet":
                card.write(args.folder)
    except PlaygroundError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, InvalidInput) else 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
