"""A reader of bundles written from the format page alone, with the stock libraries: nothing of this project is used."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.exchange.parties import make_emulator, make_parties, seal_emulator

READER = """
import base64, hashlib, json, sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from safetensors import safe_open

bundle, public = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
raw = base64.b64decode(public["key"])
content = (bundle / "manifest.json").read_bytes()
Ed25519PublicKey.from_public_bytes(raw).verify((bundle / "manifest.sig").read_bytes(), content)
manifest = json.loads(content)
assert (manifest["format"], manifest["version"]) == ("crash-flow bundle", 1)
assert manifest["kind"] in ("emulator", "tuned_blocks")
assert manifest["sender"]["fingerprint"] == hashlib.sha256(raw).hexdigest()
assert {path.name for path in bundle.iterdir()} == {"manifest.json", "manifest.sig", *manifest["files"]}
for name, facts in manifest["files"].items():
    data = (bundle / name).read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (facts["size"], facts["sha256"]), name
with safe_open(bundle / "weights.safetensors", "np") as weights:
    names = list(weights.keys())
assert not [name for name in sys.modules if name.split(".")[0] in ("tasks", "flows")]
print(json.dumps({"kind": manifest["kind"], "plan": manifest.get("plan"), "tensors": len(names)}))
"""


def read_independently(bundle: Path, public: Path, folder: Path) -> dict[str, Any]:
    """Check a bundle with that reader, in a separate process; return its findings. public: its sender's key."""
    command = [sys.executable, "-I", "-c", READER, str(bundle), str(public)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_bundle_is_what_the_format_page_says(tmp_path: Path) -> None:
    acme, clinic = make_parties(tmp_path / "homes", "acme", "clinic")
    manifest = seal_emulator(acme, clinic, make_emulator(tmp_path / "made"), tmp_path / "emulator")
    found = read_independently(tmp_path / "emulator", acme.place.keys / "acme.pub", tmp_path)
    assert found["kind"] == "emulator"
    assert found["plan"]["kept"] == list(manifest.plan.kept)
    assert found["tensors"] > len(manifest.plan.kept)
