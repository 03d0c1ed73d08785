"""Parameter-efficient fine-tuning: a few trained numbers beside a base that stays as it is.

`lora` adapts linear layers by changes of low rank, `adapter_files` reads and writes them in the format of the
library `peft`, and `quantize` keeps the base in four bits while they are trained.
"""

from __future__ import annotations
