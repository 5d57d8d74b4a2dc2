"""The gateway stays small: no tensors, no tokenizer, no decoder of pictures."""

import json
import subprocess
import sys


def test_importing_the_gateway_brings_in_nothing_heavy() -> None:
    program = "import json, sys, server.app; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=50).stdout
    heavy = {"torch", "transformers", "tokenizers", "numpy", "PIL", "av", "decord", "workers", "cv2"}
    assert not heavy & set(json.loads(output))
