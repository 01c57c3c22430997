"""From a hint of the cloud to a tested slot: what is trusted, fetched, verified and laid out."""

from __future__ import annotations

from pathlib import Path

from understudy.edge.bundle import assemble
from understudy.edge.trust import SignedOffer, Trust, TrustedFile
from understudy.edge.updater_files import BlobFolder
from understudy.edge.updater_state import SLOTS, StateFolder
from understudy.types.bundle import MANIFEST, Manifest, decode_manifest
from understudy.types.errors import RollbackError


class Installer:
    """Brings a bundle into the spare slot; every method may be repeated after a cut."""

    def __init__(
        self, folder: StateFolder, trust: Trust, blobs: BlobFolder, *, use_deltas: bool
    ) -> None:
        self._folder = folder
        self._trust = trust
        self._use_deltas = use_deltas
        self.blobs = blobs

    def offer(self, target: str, channel: str, floor: int, *, again: bool) -> SignedOffer:
        """The release behind a hint, if it is signed for us and not older than ours.

        Args:
            target: TUF target path, unsigned.
            channel: Our channel.
            floor: The newest release that was ever committed here.
            again: Whether metadata that this process has refreshed before will do.

        Raises:
            RollbackError: If this node has had a newer release.
            BundleError: If it is not signed for us, or the metadata is wrong.
            LinkError: If the cloud cannot be asked.
        """
        if not (again and self._trust.fresh):
            self._trust.refresh()
        offer = self._trust.offer(target, channel)
        current = self._folder.current()
        floor = max(floor, current.sequence if current else 0)
        if offer.sequence < floor:
            raise RollbackError(
                f"release {offer.sequence} is older than release {floor}, which was here already"
            )
        return offer

    def download(self, offer: SignedOffer) -> None:
        """Makes every file of the bundle whole.

        Raises:
            BundleError: If the server does not have a file, or sends other bytes.
            LinkError: If the link was cut; what arrived is kept.
        """
        self.blobs.fetch(offer.manifest)
        manifest = decode_manifest(self.blobs.read(offer.manifest))
        for name, entry in manifest.files.items():
            file = TrustedFile(entry.sha256, entry.size)
            if not (self.blobs.has(file) or self._by_delta(name, file)):
                self.blobs.fetch(file)

    def verify(self, bundle: str) -> None:
        """Hashes every byte again and reads every part; what is whole may still be damaged.

        Raises:
            DigestError: If a file is damaged; it is removed, to be fetched again.
            BundleError: If the parts do not make a bundle.
            OSError: If a file is missing.
        """
        data, manifest = self._manifest(bundle)
        files = {
            name: self.blobs.read(TrustedFile(entry.sha256, entry.size))
            for name, entry in manifest.files.items()
        }
        assemble(data, files)

    def stage(self, bundle: str) -> None:
        """Lays the bundle out in the spare slot.

        Raises:
            OSError: If a file is missing or the disk refuses.
        """
        _, manifest = self._manifest(bundle)
        sources = {name: self.blobs.path(e.sha256) for name, e in manifest.files.items()}
        sources[MANIFEST] = self.blobs.path(bundle)
        self._folder.fill(self._folder.spare_slot(), sources)

    def tidy(self) -> None:
        """Removes every downloaded file that no slot uses."""
        used: set[str] = set()
        for name in SLOTS:
            manifest = self._slot_manifest(self._folder.slot(name))
            if manifest is not None:
                used |= {entry.sha256 for entry in manifest.files.values()}
        self.blobs.keep_only(used)

    def _by_delta(self, name: str, file: TrustedFile) -> bool:
        """Tries to make a file from its predecessor in the slot that answers."""
        base = self._base_of(name) if self._use_deltas else None
        delta = self._trust.delta(base.sha256, file.sha256) if base else None
        if base is None or delta is None or delta.length >= file.length:
            return False
        return self.blobs.fetch_by_delta(base, file, delta)

    def _base_of(self, name: str) -> TrustedFile | None:
        current = self._folder.current()
        slot = self._folder.slot(current.slot) if current else None
        manifest = self._slot_manifest(slot) if slot else None
        if slot is None or manifest is None or name not in manifest.files:
            return None
        entry = manifest.files[name]
        base = TrustedFile(entry.sha256, entry.size)
        self.blobs.borrow(base, slot / name)
        return base

    def _manifest(self, bundle: str) -> tuple[bytes, Manifest]:
        size = self.blobs.path(bundle).stat().st_size
        data = self.blobs.read(TrustedFile(bundle, size))
        return data, decode_manifest(data)

    def _slot_manifest(self, slot: Path) -> Manifest | None:
        path = slot / MANIFEST
        return decode_manifest(path.read_bytes()) if path.is_file() else None
