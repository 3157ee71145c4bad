import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # For `sampler_cases` and `toy_sampler`, in every import mode.
