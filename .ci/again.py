"""Judge a failed test run: a test of live processes is run once more, by itself; every other failure is final.

Such tests share two cores with whatever else the machine does. One that fails among 7000 and passes alone is printed as
UNSTABLE with its name, and its first failure stays in the log above: it is a defect to look into, of the product first.
Wrong tokens, leaks and hangs that are real come again alone. More than MOST failures, one in a test without processes,
or a run that did not come to its end are no accident: nothing is run again then. `make test` itself never runs a test
twice.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as Xml

MOST = 2
LIVE = ("tests/integration/", "tests/e2e/")


def may_run_again(failed: Sequence[str], *, num_left_out: int) -> bool:
    """Whether these few tests, all of live processes and of a whole run, deserve a second look."""
    return num_left_out == 0 and 0 < len(failed) <= MOST and all(name.startswith(LIVE) for name in failed)


def main(report: Path, cache: Path) -> int:
    """Exit status: 0 when all that failed passes alone. ``report``: JUnit's; ``cache``: pytest's."""
    if not report.exists():
        return 1  # lint, types, or no run at all
    failed = list(json.loads((cache / "lastfailed").read_text())) if (cache / "lastfailed").exists() else []
    num_collected = len(json.loads((cache / "nodeids").read_text()))
    num_run = len({(case.get("classname"), case.get("name")) for case in Xml.parse(report).iter("testcase")})
    if not may_run_again(failed, num_left_out=max(0, num_collected - num_run)):
        return 1
    status = subprocess.run([sys.executable, "-m", "pytest", *failed], check=False, timeout=900).returncode
    verdict = "UNSTABLE: failed among all, passed alone" if status == 0 else "FAILED again, or one of them did"
    sys.stdout.writelines(f"{verdict}: {name}\n" for name in failed)
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(".pytest_cache/v/cache")))
