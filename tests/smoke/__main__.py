"""`python -m tests.smoke PYTHON [NODE_FOLDER]`: other clients against `glimpsed serve` with the demo model.

PYTHON: of an environment with litellm and langchain-openai. NODE_FOLDER: where npm has put the package openai.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.e2e.served import serve

HERE = Path(__file__).parent
PICTURE = HERE.parents[1] / "docs" / "examples" / "shapes.png"


def main(python: str, node_folder: str | None = None) -> int:
    """Run each script. Returns how many failed."""
    commands = [[python, str(HERE / name)] for name in ("with_litellm.py", "with_langchain.py")]
    if node_folder is not None:
        # Node looks for packages beside the script.
        commands.append(["node", shutil.copy(HERE / "with_openai_node.mjs", node_folder)])
    # litellm would otherwise ask the network for prices as it is imported.
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    num_failed = 0
    with serve([]) as daemon:
        for command in commands:
            code = subprocess.run([*command, daemon.base_url, str(PICTURE)], env=environment).returncode
            print(f"{Path(command[-1]).name}: {'passed' if code == 0 else 'FAILED'}", flush=True)
            num_failed += code != 0
    return num_failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
