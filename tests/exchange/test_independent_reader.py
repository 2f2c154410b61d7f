"""A reader of bundles written from the format page alone, with the stock libraries: nothing of this project is used."""

import json
import subprocess
import sys
from pathlib import Path

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
assert (manifest["format"], manifest["version"], manifest["kind"]) == ("crash-flow bundle", 1, "emulator")
assert manifest["sender"]["fingerprint"] == hashlib.sha256(raw).hexdigest()
assert {path.name for path in bundle.iterdir()} == {"manifest.json", "manifest.sig", *manifest["files"]}
for name, facts in manifest["files"].items():
    data = (bundle / name).read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (facts["size"], facts["sha256"]), name
with safe_open(bundle / "weights.safetensors", "np") as weights:
    names = list(weights.keys())
assert not [name for name in sys.modules if name.split(".")[0] in ("tasks", "flows")]
print(json.dumps({"kept": manifest["plan"]["kept"], "tensors": len(names)}))
"""


def test_a_bundle_is_what_the_format_page_says(tmp_path: Path) -> None:
    acme, clinic = make_parties(tmp_path / "homes", "acme", "clinic")
    manifest = seal_emulator(acme, clinic, make_emulator(tmp_path / "made"), tmp_path / "emulator")
    command = [sys.executable, "-I", "-c", READER, str(tmp_path / "emulator"), str(acme.place.keys / "acme.pub")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kept"] == list(manifest.plan.kept)
    assert found["tensors"] > len(manifest.plan.kept)
