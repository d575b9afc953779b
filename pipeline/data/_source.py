"""Sources: where data come from, and the options that say how they are read and split."""

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from variants import InputError, Likelihood

SPLIT_SEED = 20131220  # the default seed of splits (the VAE appeared on arXiv on that day)
Kind = Literal["real", "positive", "count", "binary", "category", "symbols", "pixels", "sequence"]
KINDS: tuple[Kind, ...] = get_args(Kind)  # that `--kind` accepts
# the fields of `Source` that name columns or say how columns are read, and those that are for sequences
OF_TABLES = ("label", "group", "time", "drop", "header", "exposure", "wide")
OF_SEQUENCES = ("step", "time_as_input", "window", "stride")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set before it is read: its place, and the options that say how it is read and split.

    Each field except `place` is an option of the commands; `python -m pipeline.data --help` explains them.
    """

    place: str  # the name of a data set, the path of a file or folder, or a name for data in memory
    label: str | None = None  # the column that holds the class
    group: str | None = None  # the column whose values name groups, such as patients, which are never divided
    time: str | None = None  # the column that holds the time
    drop: tuple[str, ...] = ()  # columns that are left out
    header: bool = True  # whether the first line of a table has the names of the columns
    likelihood: Likelihood | None = None
    exposure: str | None = None  # what counts are proportional to: "sum", "none", or the name of a column
    kinds: tuple[tuple[str, Kind], ...] = ()  # of columns; ("x", kind) is the kind of a whole array, or of all values
    size: tuple[int, int] | None = None  # the height and width to which images are resized
    alpha: Literal["white", "black", "keep"] | None = None  # the colour behind transparent pixels, or keep alpha
    test: str | None = None  # the place of the test split
    split: Literal["random", "group", "time"] | None = None
    split_seed: int = SPLIT_SEED
    dates: Literal["day-first", "month-first"] | None = None  # how dates such as 1/2/2020 are read
    step: str | None = None  # the time between two steps of sequences, such as "1h"; "rows": as the rows come
    time_as_input: bool = False  # whether the times of steps are given to the networks, instead of even steps
    window: int | None = None  # the steps of a window, into which longer sequences are cut
    stride: int | None = None  # the steps from the start of a window to that of the next one
    wide: bool = False  # whether each column of a table is a series, and each row a step
    portion: int | None = None  # training examples of an epoch, which are read from disk while a model is trained

    def __str__(self) -> str:
        return self.place

    def kind(self, column: str) -> Kind | None:
        """Return the kind that `--kind` gives a column; None if it gives none."""
        return dict(self.kinds).get(column)

    @property
    def exposure_column(self) -> str | None:
        """The name of the column that holds the exposure; None if there is none."""
        return None if self.exposure in (None, "sum", "none") else self.exposure

    @property
    def options(self) -> dict[str, Any]:
        """The fields that differ from their defaults, without `place`."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "place"}
        defaults = dataclasses.asdict(Source(place=self.place))
        return {name: value for name, value in values.items() if value != defaults[name]}

    @property
    def option_names(self) -> list[str]:
        """The names of these options on the command line."""
        names = {"header": "--no-header", "kinds": "--kind"}
        return [names.get(name, f"--{name.replace('_', '-')}") for name in self.options]

    def json(self) -> str:
        """Return the source as text, from which `parse` restores it."""
        return json.dumps({"place": self.place, **self.options})

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Restore a source from the text that `json` returned; any other text is a place."""
        try:
            fields = json.loads(text)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            return cls(place=text)
        gaps = fields.pop("gaps", None)  # an option of older versions
        if gaps == "ignore":
            fields["step"] = "rows"
        elif gaps is not None:
            raise InputError(
                f"{fields['place']}: these data were read with --gaps {gaps} of an older version, which --step and "
                "--time-as-input have replaced; expected a model that is trained again"
            )
        for name in ("drop", "size"):
            if name in fields:
                fields[name] = tuple(fields[name])
        if "kinds" in fields:
            fields["kinds"] = tuple((column, kind) for column, kind in fields["kinds"])
        return cls(**fields)

    @property
    def path(self) -> Path:
        """The place as a path, with the home folder in place of `~`."""
        return Path(self.place).expanduser()

    @property
    def absolute(self) -> "Source":
        """The same source, with an absolute path as its place if that is a path."""
        return dataclasses.replace(self, place=str(self.path.absolute())) if self.path.exists() else self


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any error of a library that reads a file into an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except UnicodeError as error:
        raise InputError(f"{path} is not text in UTF-8 or UTF-16; expected it to be saved again as UTF-8") from error
    except Exception as error:  # the libraries raise many types
        if "allow_pickle" in str(error):
            raise InputError(
                f"{path} cannot be read: it holds Python objects, which are never loaded; expected arrays of numbers"
            ) from error
        raise InputError(f"{path} cannot be read ({type(error).__name__}: {str(error).strip()})") from error


def refuse_options(source: Source, fields: Iterable[str], what: str, like: object) -> None:
    """Raise `InputError` if an option was given that does not apply to a kind of data.

    The options of new rows for a trained model are those of training, and are not examined.
    """
    options = dict(zip(source.options, source.option_names, strict=True))
    refused = [option for field, option in options.items() if field in fields]
    if refused and like is None:
        pronoun = "it" if len(refused) == 1 else "them"
        raise InputError(f"{source}: {' and '.join(refused)} cannot be used with {what}; leave {pronoun} out")


def file_name(path: Path, taken: list[str]) -> str:
    """Return the name of the data set in a file or folder, which is safe in paths and URLs.

    It is made of the path below the working directory, or else of the file and its folder, so that `A/data.npz` and
    `B/data.npz` differ. A name in `taken` gets the suffix of the file as an ending.
    """
    path = path.resolve()
    stem = path.name if path.is_dir() else path.name.split(".")[0] or path.stem
    folder, here = path.parent, Path.cwd()
    below = folder.relative_to(here).parts if folder.is_relative_to(here) else (folder.name,)
    name = slug("-".join([*below, stem]))
    return f"{name}-{slug(path.suffix.lower() or 'folder')}" if name in taken else name


def slug(name: str) -> str:
    """Return a name with only letters of any script, digits, `_` and `-`."""
    return re.sub(r"[^\w-]+", "-", name).strip("-") or "data"
