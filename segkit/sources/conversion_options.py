"""The options of a conversion."""

from dataclasses import dataclass
from typing import Literal

from segkit.arguments import check_choice, check_number
from segkit.errors import InputError
from segkit.shards.manifest import ImagesBy
from segkit.shards.writer import SHARD_BYTES
from segkit.sources.record_images import Exif
from segkit.workers.devices import Engine

OnError = Literal["fail", "skip"]


@dataclass(frozen=True)
class ConvertOptions:
    """Options of a conversion."""

    name: str | None = None
    """Name of the set in tables; None takes the name of the destination."""
    split: str | None = None
    """train, val, ...; noted in the manifest."""
    limit: int | None = None
    """Convert only the first images of the source, at most this many."""
    images_by: ImagesBy = "embed"
    """Copy images into tars, reference the files, or write labels only and open no image."""
    exif: Exif = "keep"
    """What to do with photos that their EXIF orientation turns; `apply` only embeds images."""
    on_error: OnError = "fail"
    """Fail on defects that would lose data, or quarantine them and continue."""
    shard_bytes: int = SHARD_BYTES
    """Bytes of images at which a shard is closed."""
    workers: int | None = None
    """Shards at a time; None takes one per core of this process, or per CPU of the cluster."""
    engine: Engine = "local"
    """Write shards in processes of this machine, or in tasks of a Ray cluster."""
    address: str | None = None
    """Address of the Ray cluster; see `ray_cluster`."""
    force: bool = False
    """Publish a version even if it equals the newest one."""

    def __post_init__(self) -> None:
        """Raise InputError for unknown values, and for options that exclude each other."""
        check_choice(self.images_by, ImagesBy, "images_by")
        check_choice(self.exif, Exif, "exif")
        check_choice(self.on_error, OnError, "on_error")
        check_choice(self.engine, Engine, "engine")
        check_number(self.shard_bytes, "shard_bytes", 1)
        for name, number in (("limit", self.limit), ("workers", self.workers)):
            if number is not None:
                check_number(number, name, 1)
        if self.exif != "keep" and self.images_by == "none":
            message = f"--exif {self.exif} needs the images"
            raise InputError(message, hint="drop --images-by none")
        if self.exif == "apply" and self.images_by == "reference":
            message = "--exif apply cannot be combined with --images-by reference"
            hint = "give --images-by embed: turned photos are stored anew"
            raise InputError(message, hint=hint)
        if self.address and self.engine != "ray":
            hint = "give --engine ray with it"
            raise InputError("--address is the address of a Ray cluster", hint=hint)
