"""Which processor is this? One of 100 W."""


class TDP:
    model, tdp = "light", 100.0

    def __init__(self) -> None:
        self._get_matching_cpu(self.model)

    def _get_matching_cpu(self, model: str) -> str:
        return model
