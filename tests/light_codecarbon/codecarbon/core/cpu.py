"""Which processor is this? One of 100 W."""

import time


class TDP:
    model, tdp = "light", 100.0

    def __init__(self) -> None:
        time.sleep(2)  # as long as the real one takes: the GPUs are declared first, and get the first numbers
        self._get_matching_cpu(self.model)

    def _get_matching_cpu(self, model: str) -> str:
        return model
