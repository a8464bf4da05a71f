"""Examples as a user starts them: what they print, claim and draw."""

import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

TESTS = Path(__file__).parents[1]
EXAMPLES = TESTS.parent / "examples"
# where torchvision was built for another torch, Lightning needs its operators declared
START = f"""
import runpy, sys
declared = runpy.run_path({str(TESTS / "models" / "conftest.py")!r})
sys.path.insert(0, {str(EXAMPLES)!r})
"""
VERDICTS = {"shows": True, "does not show": False}


def started(program, folder, *arguments):
    command = [sys.executable, "-c", START + program, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)


def run(name, folder, *arguments):
    """What a program prints; it draws a picture into the folder."""
    path = EXAMPLES / f"{name}.py"
    process = started(f"runpy.run_path({str(path)!r}, run_name='__main__')", folder, *arguments)
    assert process.returncode == 0, process.stderr
    return process.stdout


def verdicts(out):
    """Whether each claim shows, by its text."""
    claims = [_claim(paragraph) for paragraph in out.split("shows or not\n\n")[1].split("\n\n")]
    return {text: VERDICTS[verdict] for text, verdict in claims if verdict in VERDICTS}


def _claim(paragraph):
    first, *_ = lines = paragraph.splitlines()
    text = " ".join(line[:46].strip() for line in lines)
    return text.strip(), re.split(r"\s{2,}", first)[-1]


def numbers(out, first_cell):
    """The lines of a table of numbers that begin with this, as lists of them."""
    lines = re.findall(rf"^{first_cell}((?: +-?[\d.]+(?:e-?\d+)?)+)$", out, re.MULTILINE)
    return [[float(cell) for cell in line.split()] for line in lines]


def require_picture(path):
    with Image.open(path) as image:
        width, height = image.size
        assert width > 1000
        assert height > 300
        assert len(set(image.convert("L").tobytes())) > 20
