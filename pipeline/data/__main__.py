"""`python -m pipeline.data`: show what is understood of a data set, without training."""

from pipeline import cli

ABOUT = """Show what is understood of a data set, without training anything.

SOURCE is the name of a data set, or the path of a file or of a folder of images. The values, the classes, the splits
and warnings about what may be wrong are printed, and then the options that would change any of this. The commands
study, compare, evaluate and speed take the same options. A picture of some training examples is saved below --out."""

EPILOG = """examples:
  python -m pipeline.data digits                                       the built-in digits
  python -m pipeline.data mine.csv --label diagnosis --group patient   no patient is in two splits
  python -m pipeline.data mine.csv --drop id,comment --kind stage=real
  python -m pipeline.data visits.csv --kind income=positive --kind ward=category --exposure days
  python -m pipeline.data photographs --size 64x64
  python -m pipeline.data sensors.csv --kind machine=sequence --time when --step 1h --window 168 --stride 24
  python -m pipeline.data monday.csv --test tuesday.csv                another file is the test split
"""


def main(words: list[str]) -> int:
    parser = cli.parser("data", ABOUT, "--out", *cli.DATA, epilog=EPILOG)
    parser.add_argument("place", nargs="?", metavar="SOURCE", help="a name, or the path of a file or folder")
    arguments = parser.parse_args(words)

    from PIL import Image

    from pipeline import data, machine
    from pipeline.evaluate import pictures
    from pipeline.progress import Display
    from variants import InputError

    if arguments.place is None:
        raise InputError(f"SOURCE is missing: expected {', '.join(data.names())}, or the path of a file or folder")
    loaded = data.load(cli.source(arguments, arguments.place))
    folder = arguments.out / loaded.spec.name
    machine.writable(folder)
    display = Display()
    display.show(loaded.inspect().page())
    picture = folder / "data.png"
    Image.fromarray(pictures.examples(loaded)).save(picture)
    display.say(f"\na picture of training examples is in {picture.absolute()}")
    return 0


if __name__ == "__main__":
    cli.run(main)
