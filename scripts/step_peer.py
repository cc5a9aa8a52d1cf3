"""The training step of another checkout of this project, for benchmark.py: started with that checkout on PYTHONPATH.

Reads lines of JSON from standard input. A line has the fields of `Setting` in that checkout's scripts/benchmark.py, and
`seconds`. For each line it trains for about that time, and prints a line with the time per sequence.
"""

import json
import os
import sys

sys.path.insert(0, os.path.join(os.environ["PYTHONPATH"], "scripts"))

from benchmark import Setting, fused


def main():
    print(json.dumps({"ready": True}), flush=True)
    made = {}
    for line in sys.stdin:
        setting = json.loads(line)
        seconds = setting.pop("seconds")
        key = tuple(setting.items())
        burst = made.get(key) or made.setdefault(key, fused(Setting(**setting)))
        print(json.dumps({"seconds_per_sequence": burst(seconds)}), flush=True)


if __name__ == "__main__":
    main()
