"""Downloads of data sets from the addresses that torchvision uses."""

from pathlib import Path

from tasks.data.archives import extract
from tasks.data.errors import DataError
from tasks.data.places import scratch
from tasks.vision import torchvision


def omniglot(folder: Path) -> None:
    """Downloads and unpacks ``images_background`` and ``images_evaluation`` into a folder, unless they are there."""
    source = torchvision.datasets.Omniglot
    for part, md5 in source.zips_md5.items():
        _fetch(f"{source.download_url_prefix}/{part}.zip", md5, folder, part)


def cifar100(folder: Path) -> None:
    """Downloads and unpacks ``cifar-100-python`` into a folder, unless it is there."""
    source = torchvision.datasets.CIFAR100
    _fetch(source.url, source.tgz_md5, folder, source.base_folder)


def _fetch(url: str, md5: str, folder: Path, holds: str) -> None:
    """Downloads an archive that holds one folder, checks it, and unpacks that folder whole or not at all.

    The archive stays beside the folder, where torchvision looks for it too.

    Raises:
        DataError: if it cannot be fetched or has another checksum.
    """
    tools = torchvision.datasets.utils
    if (folder / holds).is_dir():
        return
    archive = folder / url.rpartition("/")[2]
    with scratch(folder / holds) as partial:
        if not tools.check_integrity(archive, md5):
            try:
                tools.download_url(url, str(partial), archive.name)
            except (RuntimeError, OSError) as error:
                raise DataError(
                    f"{url}: cannot fetch it ({error}); fetch it by other means and put it at '{archive}'"
                ) from error
            if not tools.check_integrity(partial / archive.name, md5):
                raise DataError(f"{url}: expected a file with MD5 {md5}, received another one; try again later")
            (partial / archive.name).rename(archive)
        extract(archive, partial / "unpacked")
        if not (partial / "unpacked" / holds).is_dir():
            raise DataError(f"{archive}: expected a folder '{holds}' in it, found none")
        (partial / "unpacked" / holds).rename(folder / holds)
