"""Evidence on disk: it is there without a close, and every life of a process has its own."""

import os
import subprocess
import sys
from pathlib import Path

from tandem.chaos.tagged.evidence import FileEvidence, Mismatch, Verified, read_mismatches, read_verified

FOUND = Mismatch(
    request_id="r", attempt=1, child=0, tenant="t", position=3, block_id=2, num_wrong_slots=1, num_tokens=9,
    found="00", expected="01", at_s=1.5,
)  # fmt: skip


def test_counts_and_mismatches_are_read_back(tmp_path: Path) -> None:
    evidence = FileEvidence(tmp_path, "decode-0")
    evidence.add(Verified(num_steps=1, num_tokens=40))
    evidence.add(Verified(num_steps=1, num_tokens=2, nan_rows=1))
    evidence.mismatch(FOUND)
    read = read_verified(tmp_path)
    assert read == {f"decode-0.{os.getpid()}": Verified(num_steps=2, num_tokens=42, nan_rows=1, tag_mismatches=1)}
    assert [entry["position"] for entry in read_mismatches(tmp_path)] == [3]


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    program = (
        "import os, sys, pathlib\n"
        "from tandem.chaos.tagged.evidence import FileEvidence, Verified\n"
        "evidence = FileEvidence(pathlib.Path(sys.argv[1]), 'w')\n"
        "for _ in range(5): evidence.add(Verified(num_steps=1))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == -9
    FileEvidence(tmp_path, "w").add(Verified(num_steps=2))
    assert sum(read_verified(tmp_path).values(), Verified()).num_steps == 7
