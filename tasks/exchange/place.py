"""The folder in which a party keeps its keys, the keys that it trusts, its ledger and the bundles that it accepted."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ExchangePlace:
    """The folder `exchange` in the home of a party. Nothing in it is ever sent."""

    root: Path

    @staticmethod
    def of_home(home: Path) -> "ExchangePlace":
        """Return the place in a home."""
        return ExchangePlace(home.absolute() / "exchange")

    @property
    def keys(self) -> Path:
        """Folder of this party's own keys."""
        return self.root / "keys"

    @property
    def trusted(self) -> Path:
        """Folder of the public keys of other parties."""
        return self.root / "trusted"

    @property
    def ledger(self) -> Path:
        """File of the ledger."""
        return self.root / "ledger.sqlite"

    @property
    def received(self) -> Path:
        """Folder of copies of bundles that were verified, each under its digest."""
        return self.root / "received"

    @property
    def verifying(self) -> Path:
        """Folder of copies that exist only while a bundle is looked at."""
        return self.root / "verifying"

    @property
    def quarantine(self) -> Path:
        """Folder of copies of received bundles that were found damaged, kept for inspection."""
        return self.root / "quarantine"

    @property
    def sealed(self) -> Path:
        """Folder of what the model owner remembers of each emulator that was given away, by its id."""
        return self.root / "sealed"

    @property
    def plugged(self) -> Path:
        """Folder of the original tensors of plugged models, by the id of the tuned blocks."""
        return self.root / "plugged"
