"""Where the photos come from, and which of them are used for what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from fgvr.config.base import RUNTIME_ONLY, Part
from fgvr.config.tree import Basic
from fgvr.config.web import WebPolicy

IMAGE_ENDINGS: Final = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".mpo"),
    *(".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".ico", ".tif", ".tiff"),
    *(".avif", ".avifs", ".heic", ".heics", ".heif", ".heifs", ".hif"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
)
"""Those of `fgvr.images.formats.FORMATS`."""

NO_PHOTOS: Final = (
    *("@eaDir", "@SynoResource", "*@SynoEAStream", "@Recycle", "@Recently-Snapshot", "@__thumb", "@tmp"),
    *("#recycle", "#snapshot", "~snapshot", "$RECYCLE.BIN", "System Volume Information", "found.[0-9][0-9][0-9]"),
    *("RECYCLER", "@sharebin", "@sharesnap", "lost+found", "__MACOSX", "Network Trash Folder"),
    *("Temporary Items", "SYNOPHOTO_THUMB_*", "SYNOFILE_THUMB_*", "Thumbs.db", "ehthumbs*.db", "desktop.ini"),
)
"""What storage devices and systems put beside photos: thumbnails, waste baskets, snapshots, resource forks."""


class ImageLimits(Part):
    """What of an image is read, and how large it may be; beyond the limits the row fails with a reason and nothing is
    decoded.
    """

    max_bytes: Annotated[int, RUNTIME_ONLY] = Field(default=64 * 2**20, ge=1)
    """Largest image file, in bytes; larger ones become failed rows. Raise it for large originals."""
    max_pixels: Annotated[int, RUNTIME_ONLY] = Field(default=100_000_000, ge=1)
    """Largest width times height, in pixels, by the file's header: a decompression bomb fits into a few kilobytes."""
    cut_bottom: int = Field(default=0, ge=0)
    """Height, in pixels, of the strip cut off the bottom of every image, e.g. 20 for the banner of FGVC-Aircraft's
    photos."""
    allowed_roots: Annotated[tuple[str, ...], RUNTIME_ONLY] = ()
    """Folders, buckets and prefixes (/data/photos, s3://bucket/2024) that a source may refer to besides its own folder;
    rows that refer to other places fail. Empty: it depends on where the source lies. A table on this machine may name
    any place but files of the system and of keys; one in a bucket, that bucket and web addresses; the lists and links
    of a data set, what lies below the source's folder (docs/security.md)."""
    web: Annotated[WebPolicy, RUNTIME_ONLY] = WebPolicy()
    """Images at http:// and https:// URLs."""


class FolderSource(Part):
    """A folder of images, searched recursively."""

    kind: Literal["folder"] = "folder"
    path: Basic[str]
    """The folder: a local path or a URL such as s3://bucket/photos."""
    class_from: Basic[Literal["none", "parent"]] = "none"
    """`parent`: the name of an image's folder is its true class, used for evaluation and, by `makd.target`, for
    training; `none`: unlabelled."""
    split_from: Literal["none", "top"] = "none"
    """`top`: the first folder below `path` is the split (train/, test/); `none`: all images are `train`."""
    snapshot: str = "1"
    """The listing is made once and kept, so that new files do not disturb a long run. Change this text to list
    again."""
    replaced: Literal["anew", "keep"] = "anew"
    """What to do when listed photos were replaced under their names (another size, time or ETag; checked at each start
    for up to 100,000 files): `anew` lists and computes them again; `keep` keeps what is finished."""
    extensions: tuple[str, ...] = IMAGE_ENDINGS
    """File name endings that count as images, in upper or lower case; those of HEIC only where pillow-heif is
    installed. Other files are left out and counted by ending."""
    exclude: tuple[str, ...] = NO_PHOTOS
    """Names of files and folders below `path` to leave out, with the wildcards `*` and `?`, in upper or lower case. The
    default lists what NAS devices and operating systems create; your own list replaces it. Hidden names (.name) are
    always left out."""


class _WithColumns(Part):
    """A source with columns. Its newer fields count in fingerprints only where they are used."""

    @property
    def kept_columns(self) -> tuple[str, ...]:
        """Columns that the samples keep as metadata."""
        columns: tuple[str, ...] = getattr(self, "metadata_columns", ())
        group: str | None = getattr(self, "group_column", None)
        return columns if group is None or group in columns else (*columns, group)

    def deciding(self) -> dict[str, Any]:
        """See Part: earlier listings are still found."""
        newer = ("group_column", "test_share", "test_seed")
        unused = {name for name in newer if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in super().deciding().items() if name not in unused}

    def unused(self) -> Iterator[tuple[str, str]]:
        """See Part: a seed of no draw."""
        if getattr(self, "test_seed", 0) and getattr(self, "test_share", None) is None:
            yield "test_seed", "nothing is drawn without test_share; set it, or leave this out"


class TableSource(_WithColumns):
    """A CSV, TSV or Parquet file with one image URI per row; relative URIs start at the file's folder."""

    kind: Literal["table"] = "table"
    path: str
    """The .csv, .tsv or .parquet file."""
    uri_column: str = "uri"
    """Column with the path or URL of the image."""
    split_column: str | None = "split"
    """Column with the split. Where the cell is empty, this is null, or the file has no column `split`, the image is
    `train`. A column named here must exist."""
    class_column: str | None = "class_name"
    """Column with the true class name, for evaluation. Null, or no column `class_name` in the file: unlabelled. A
    column named here must exist."""
    metadata_columns: tuple[str, ...] = ()
    """Columns to keep as metadata (price, brand, place …)."""
    group_column: str | None = None
    """Column that says which photos belong together (sender, visit, product), kept as metadata: `test_share` draws
    whole groups, and groups that the source's own splits tear apart are reported."""
    test_share: float | None = Field(default=None, gt=0, lt=1)
    """Share of the groups (without `group_column`: of the photos) that become the split `test`, where the source names
    no split; null: none."""
    test_seed: int = Field(default=0, ge=0)
    """Random seed of that draw."""
    snapshot: str = "1"
    """Change this text when images behind the listed names were replaced where that is not detected: in object stores,
    at web addresses, and in lists of more than 100,000 rows."""
    replaced: Literal["anew", "keep"] = "anew"
    """What to do when listed photos on disks were replaced under their names (another size or time; checked at each
    start for up to 100,000 rows): `anew` computes everything again; `keep` keeps what is finished."""


class WebDatasetSource(Part):
    """Images in tar files, read in place: neighbouring members with the same key (name up to the first dot) belong
    together. docs/inputs.md.
    """

    kind: Literal["webdataset"] = "webdataset"
    path: str
    """A folder or prefix to search for .tar files, a single one, or a numbered range:
    s3://bucket/train-{0000..0123}.tar. They must not be compressed: a compressed file cannot be read from the
    middle."""
    class_from: Literal["none", "cls", "txt", "json"] = "none"
    """Member that holds the true class: a number (`cls`), the name (`txt`), or the value of `class_key` in an object
    (`json`); `none`: unlabelled."""
    class_key: str = "label"
    """Key of the class in the JSON members."""
    class_names: str | None = None
    """Text file with one class name per line, in the order of the numbers, from 0; null: the numbers are the names."""
    split_from: Literal["none", "top"] = "none"
    """`top`: the first folder below `path` is the split (train/, test/); `none`: all images are `train`."""
    snapshot: str = "1"
    """The listing is made once and kept. Change this text to list again."""
    replaced: Literal["anew", "keep"] = "anew"
    """What to do when listed tar files were replaced under their names (another size, time or ETag; checked at each
    start for up to 100,000 files): `anew` lists and computes them again; `keep` keeps what is finished."""
    extensions: tuple[str, ...] = IMAGE_ENDINGS
    """Member name endings that count as images, in upper or lower case; those of HEIC only where pillow-heif is
    installed. Other members are left out and counted by ending."""
    exclude: tuple[str, ...] = NO_PHOTOS
    """Names of tar files, members and folders below `path` to leave out, with the wildcards `*` and `?`, in upper or
    lower case. The default lists what NAS devices and operating systems create; your own list replaces it. Hidden names
    (.name) are always left out."""

    def unused(self) -> Iterator[tuple[str, str]]:
        """See Part: how classes are read that are not."""
        key = type(self).model_fields["class_key"].default
        if self.class_key != key and self.class_from != "json":
            yield (
                "class_key",
                f"class_from = {self.class_from} reads no JSON members; set it to json, or leave this out",
            )
        if self.class_names is not None and self.class_from == "none":
            yield "class_names", "class_from = none reads no classes; set it to cls, txt or json, or leave this out"


class ParquetSource(_WithColumns):
    """Images in a column of Parquet files, as bytes or as Hugging Face's {bytes, path}. docs/inputs.md."""

    kind: Literal["parquet"] = "parquet"
    path: str
    """A folder or prefix to search for .parquet files, a single one, or a numbered range:
    s3://bucket/train-{0000..0123}.parquet."""
    image_column: str = "image"
    """Column with the bytes of the image files."""
    class_column: str | None = None
    """Column with the true class name, for evaluation; Hugging Face's class numbers are replaced by their names. null:
    unlabelled."""
    split_column: str | None = None
    """Column with the split; null: `split_from` decides."""
    split_from: Literal["none", "top"] = "none"
    """`top`: the first folder below `path` is the split (train/, test/); `none`: all images are `train`."""
    metadata_columns: tuple[str, ...] = ()
    """Columns to keep as metadata (price, brand, place …)."""
    group_column: str | None = None
    """Column that says which photos belong together (sender, visit, product), kept as metadata: `test_share` draws
    whole groups, and groups that the source's own splits tear apart are reported."""
    test_share: float | None = Field(default=None, gt=0, lt=1)
    """Share of the groups (without `group_column`: of the photos) that become the split `test`, where the source names
    no split; null: none."""
    test_seed: int = Field(default=0, ge=0)
    """Random seed of that draw."""
    snapshot: str = "1"
    """The listing is made once and kept. Change this text to list again."""
    replaced: Literal["anew", "keep"] = "anew"
    """What to do when listed files were replaced under their names (another size, time or ETag; checked at each start
    for up to 100,000 files): `anew` lists and computes them again; `keep` keeps what is finished."""
    exclude: tuple[str, ...] = NO_PHOTOS
    """Names of files and folders below `path` to leave out, with the wildcards `*` and `?`, in upper or lower case. The
    default lists what NAS devices and operating systems create; your own list replaces it. Hidden names (.name) are
    always left out."""

    def unused(self) -> Iterator[tuple[str, str]]:
        """See Part: two places that say the split."""
        yield from super().unused()
        if self.split_column is not None and self.split_from != "none":
            yield "split_from", f"split_column = {self.split_column} has the splits; leave one of the two out"


DataSet = Literal["cub", "cars", "dogs", "flowers", "pets", "grocery", "dtd", "aircraft", "caltech101", "mini_imagenet"]

ONLY_OF: Final[dict[str, tuple[DataSet, ...]]] = {
    "legacy_cars_offset": ("cars",),
    "val_as_train": ("flowers", "grocery", "dtd", "aircraft"),
    "fold": ("dtd",),
    "train_per_class": ("caltech101", "mini_imagenet"),
    "split_seed": ("caltech101", "mini_imagenet"),
    "class_names": ("mini_imagenet",),
}


class LayoutSource(Part):
    """The official download of a public data set, unpacked."""

    kind: Literal["layout"] = "layout"
    name: DataSet
    """Name of the data set; docs/datasets.md says what to download."""
    path: str
    """The folder that the download unpacks to."""
    legacy_cars_offset: bool = False
    """Stanford Cars with the error of FineR and FiNDR, true names off by one class: only for comparison with their
    papers."""
    val_as_train: bool = False
    """Also train on the official validation images (flowers, grocery, dtd, aircraft)."""
    fold: int = Field(default=1, ge=1, le=10)
    """Which of the ten official splits of DTD to use."""
    train_per_class: int | None = Field(default=None, ge=1)
    """Training images per class where there is no official split; null: 30 (caltech101), 500 (mini_imagenet)."""
    split_seed: int = Field(default=0, ge=0)
    """Random seed of the training images where there is no official split."""
    class_names: str | None = None
    """mini_imagenet only: ImageNet's words.txt or WordNet 3.0's data.noun; null: the file beside the lists, else the
    one in /usr/share."""
    snapshot: str = "1"
    """Change this text when images behind the listed names were replaced where that is not detected: in object stores,
    at web addresses, and in lists of more than 100,000 rows."""
    replaced: Literal["anew", "keep"] = "anew"
    """What to do when listed photos on disks were replaced under their names (another size or time; checked at each
    start for up to 100,000 rows): `anew` computes everything again; `keep` keeps what is finished."""

    @model_validator(mode="after")
    def _fields_of_this_data_set(self) -> Self:
        for field, names in ONLY_OF.items():
            if self.name in names or getattr(self, field) == LayoutSource.model_fields[field].default:
                continue
            if field == "legacy_cars_offset":
                raise ValueError(
                    f"legacy_cars_offset is a mistake that was made with `name: cars`, not with {self.name}"
                )
            raise ValueError(
                f"{field} is a setting of {', '.join(names)}; {self.name} has nothing that it could change"
            )
        return self


class _Drawn(Part):
    """A source that draws its photos. Until 0.1 `draw_to` was called `path`, like the place that other sources read."""

    @model_validator(mode="before")
    @classmethod
    def _earlier_name(cls, values: Any) -> Any:
        return _draw_to(values) if isinstance(values, dict) else values

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's; knows the earlier name, too."""
        return super().model_copy(update=None if update is None else _draw_to(update), deep=deep)


def _draw_to(values: Mapping[str, Any]) -> dict[str, Any]:
    if "path" not in values or "draw_to" in values:
        return dict(values)
    return {"draw_to" if name == "path" else name: value for name, value in values.items()}


class FieldGuideSource(_Drawn):
    """Drawings of invented birds, made on first use: the demo and the project's test data."""

    kind: Literal["field_guide"] = "field_guide"
    draw_to: str | None = None
    """Folder to WRITE the drawings to, either empty or holding earlier ones; null: `field_guide/` in the run folder."""
    train_per_class: int = Field(default=30, ge=1)
    """Training drawings per species."""
    test_per_class: int = Field(default=20, ge=1)
    """Test drawings per species."""
    difficulty: float | None = Field(default=None, gt=0)
    """Strength of pose, light, clutter and noise; null: the demo's setting, for which its models were measured."""
    seed: int = Field(default=0, ge=0)
    """Random seed of the drawings; the species stay the same."""


class CocoSource(Part):
    """Photos with boxes: two COCO annotation files, each with a folder of images. docs/detection.md."""

    kind: Literal["coco"] = "coco"
    path: str
    """The folder that the paths below are relative to."""
    train_annotations: str = "annotations/instances_train2017.json"
    """Annotation file of the split `train`."""
    train_images: str = "train2017"
    """Folder with the images of the split `train`."""
    test_annotations: str = "annotations/instances_val2017.json"
    """Annotation file of the split `test`."""
    test_images: str = "val2017"
    """Folder with the images of the split `test`."""
    snapshot: str = "1"
    """Change this text when images behind the listed names were replaced where that is not detected: in object stores,
    at web addresses, and in lists of more than 100,000 rows."""
    replaced: Literal["anew", "keep"] = "anew"
    """What to do when listed photos on disks were replaced under their names (another size or time; checked at each
    start for up to 100,000 rows): `anew` computes everything again; `keep` keeps what is finished."""


class BirdScenesSource(_Drawn):
    """Drawn scenes with several birds of the field guide and their boxes, in COCO's format, made on first use."""

    kind: Literal["bird_scenes"] = "bird_scenes"
    draw_to: str | None = None
    """Folder to WRITE the drawings to, either empty or holding earlier ones; null: `bird_scenes/` in the run folder."""
    train_scenes: int = Field(default=240, ge=1)
    """Number of training scenes."""
    test_scenes: int = Field(default=100, ge=1)
    """Number of test scenes."""
    size: int = Field(default=96, ge=32, le=1024)
    """Side of the square scenes, in pixels."""
    birds: int = Field(default=4, ge=1, le=20)
    """Largest number of birds in a scene."""
    classes: int = Field(default=6, ge=1, le=36)
    """Number of species, spread evenly over the guide: 6 are one of each genus."""
    difficulty: float = Field(default=1, ge=0)
    """Strength of pose, light, clutter and noise."""
    seed: int = Field(default=0, ge=0)
    """Random seed of the scenes."""


Source = Annotated[
    FolderSource
    | TableSource
    | WebDatasetSource
    | ParquetSource
    | LayoutSource
    | FieldGuideSource
    | CocoSource
    | BirdScenesSource,
    Field(discriminator="kind"),
]

DRAWN = (FieldGuideSource, BirdScenesSource)
"""Sources that need no files and bring their own questions."""


def check_path_is_read(given: Any, kind: str | None) -> None:
    """Raises ValueError where a layer of a config gives a source's `path` without its kind, and the kind draws.

    Args:
        given: the source as the layer has it.
        kind: of the source, by the layers below.
    """
    drawing = [part.model_fields["kind"].default for part in DRAWN]
    if isinstance(given, dict) and "path" in given and "kind" not in given and kind in drawing:
        raise ValueError(
            f"ingest.source.path = {given['path']!r}: the source's kind is {kind}, which draws photos and reads none; "
            "did you mean --ingest.source.kind folder? (To draw there: ingest.source.draw_to)"
        )


class Ingest(Part):
    """ingest: a source becomes the samples table."""

    source: Basic[Source] = FieldGuideSource()
    """Where the photos come from: a folder; a table of paths or URLs (CSV, TSV, Parquet); tars (webdataset); image
    columns in Parquet files; a public data set as it is downloaded (layout, coco); or drawn birds (the demo)."""
    rows_per_part: int = Field(default=65536, ge=1)
    """Rows per part file of the samples table; a table that has been started keeps the size it was started with."""
    limits: ImageLimits = ImageLimits()
    """Limits on every image that is read."""

    @model_validator(mode="before")
    @classmethod
    def _path_is_read(cls, values: Any) -> Any:
        if isinstance(values, dict):
            check_path_is_read(values.get("source"), FieldGuideSource().kind)
        return values

    @model_validator(mode="after")
    def _banner_of_aircraft(self) -> Self:
        aircraft = isinstance(self.source, LayoutSource) and self.source.name == "aircraft"
        if aircraft and "cut_bottom" not in self.limits.model_fields_set:
            raise ValueError(
                "the photos of FGVC-Aircraft have a banner of 20 pixels with their copyright at the bottom: set "
                "limits.cut_bottom to 20, as the preset `aircraft` does, or to 0 if it is to stay"
            )
        return self


LEGACY_SPLIT = "test"


class Discovery(Part):
    """Which images the multimodal LLM labels: the discovery set, from which NeaR learns."""

    split: str = "train"
    """Split from which the discovery images are drawn."""
    legacy_discovery_split: bool = False
    """Draw from `test` instead, as FineR did with CUB: images learned from are then evaluated on. The report counts
    them."""
    per_class: int | None = Field(default=None, ge=1)
    """m-shot benchmark protocol: this many images per true class (needs true classes); null: `max_images` at random."""
    max_images: Basic[int | None] = Field(default=20_000, ge=1)
    """Number of images that the MLLM names (null: the whole split); more of them find rarer kinds
    and cost more. A larger sample contains the smaller ones. Without effect where `per_class` is set. The vocabulary
    holds only names that some of them show: of 3,000 equally frequent kinds, 1,000 images show 28%, 20,000 show all,
    and 96% of them at least three times."""
    select: Basic[Literal["random", "medoids", "typical"]] = "random"
    """Which images: `random` ones; `medoids`: one per cluster of the vectors, nearest to its centre, near-duplicates
    once, worth 5 to 7 points where three answers per kind are paid for, and none at ten; `typical`: the image of each
    cluster that is most like its neighbours. For the last two, images are embedded first (docs/selection.md)."""
    pool: int | None = Field(default=200_000, ge=1)
    """Images among which medoids or typical images are chosen, drawn at random: their vectors are computed first. Ten
    per question serve. null: the whole split."""
    only: str | None = None
    """Draw only from photos that a list names: a CSV with a column `uri`, or a folder with photos.csv, such as
    runs/mine/novel, where an earlier run keeps the photos that fit nothing (docs/drift.md). null: from all."""
    seed: int = Field(default=0, ge=0)
    """Random seed of the sample, of the pool, and of the choice among it."""

    def deciding(self) -> dict[str, Any]:
        """As for every part; the newer fields count only where they are used, so that earlier tables are found."""
        newer = {} if self.select == "random" else {"select": self.select, "pool": self.pool}
        only = {} if self.only is None else {"only": self.only}
        return {k: v for k, v in super().deciding().items() if k not in {"select", "pool", "only"}} | newer | only

    @property
    def chosen(self) -> bool:
        """Whether the images are chosen by their vectors."""
        return self.select != "random"

    @model_validator(mode="after")
    def _something_to_choose(self) -> Self:
        if not self.chosen:
            return self
        if self.per_class is not None:
            raise ValueError(
                f"select = {self.select}: per_class is the papers' protocol, which draws by true classes; set it to "
                "null and say with max_images how many are asked about, or set select to random"
            )
        if self.max_images is None:
            raise ValueError(f"select = {self.select}: all images are asked about (max_images = null); set max_images")
        if self.pool is not None and self.pool < self.max_images:
            raise ValueError(
                f"pool = {self.pool}: max_images = {self.max_images} cannot be chosen among fewer images; ten per "
                "question serve, null is the whole split"
            )
        return self

    @property
    def drawn_from(self) -> str:
        """The split that counts."""
        return LEGACY_SPLIT if self.legacy_discovery_split else self.split
